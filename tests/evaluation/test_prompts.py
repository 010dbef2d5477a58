"""How examples and a query are written, and where an answer ends."""

import pytest

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.prompts import PROMPTS, find_kind
from mm1_mlx.evaluation.tasks.task import Item

ASKED = [Item("1", b"one", ("red",), "What color?"), Item("2", b"two", ("3",), "How many?")]
TOLD = [Item("1", b"one", ("A cat.",)), Item("2", b"two", ("A dog.",))]


@pytest.mark.parametrize(
    ("style", "items", "text"),
    [
        (
            "mm1",
            ASKED,
            "<image>Question: What color? Short answer: red\n<image>Question: How many? Short answer:",
        ),
        ("mm1", TOLD, "<image>A photo of A cat.\n<image>A photo of"),
        (
            "openflamingo",
            ASKED,
            "<image>Question:What color? Short answer:red\n<image>Question:How many? Short answer:",
        ),
        ("openflamingo", TOLD, "<image>Output:A cat.\n<image>Output:"),
    ],
)
def test_a_plain_prompt_has_an_example_a_line_and_ends_open(style, items, text):
    request = PROMPTS[style].write(items[:1], items[1], "")
    assert (request.prompt, request.images, request.template) == (text, [b"one", b"two"], "plain")
    assert request.num_low_resolution == 1 and request.stop[0] == "\n"


@pytest.mark.parametrize("items", [ASKED, TOLD])
def test_a_chat_has_examples_as_turns(items):
    request = PROMPTS["chat"].write(items[:1], items[1], "\n")
    asked = [item.question or "Describe the picture." for item in items]
    assert request.prompt == [
        {"role": "user", "content": f"<image>\n{asked[0]}"},
        {"role": "assistant", "content": items[0].example},
        {"role": "user", "content": f"<image>\n{asked[1]}"},
    ]
    assert request.template == "chat" and request.images == [b"one", b"two"]


@pytest.mark.parametrize("style", list(PROMPTS))
def test_an_image_tag_in_a_text_is_a_word(mm1_tiny, picture, style):
    odd = Item("1", picture, ("the <image> tag",), "Is <image> a tag?")
    inputs = PROMPTS[style].write([odd], odd, "").prepare(mm1_tiny[1])
    assert len(inputs.pictures) == 2 and "<image> tag" in mm1_tiny[1].tokenizer.decode(
        [id for id in inputs.input_ids.tolist() if id != mm1_tiny[1].config.image_token_id]
    )


@pytest.mark.parametrize(
    ("style", "kind", "text", "answer"),
    [
        ("mm1", "question", " red, blue\nQuestion: next", "red"),
        ("mm1", "caption", " a cat, asleep.\nA photo of a dog", "a cat, asleep."),
        ("mm1", "rationale", " I count 1, 2. Short answer: 2.\nQ", "2"),
        ("openflamingo", "question", "red, blue", "red"),
        ("openflamingo", "question", "3.5 metres Short answer", "3.5 metres"),
        ("openflamingo", "caption", '"a cat", asleep Output:a dog', "a cat, asleep"),
        ("chat", "question", " Two  cats.\n", "Two cats."),
    ],
)
def test_an_answer_ends_where_the_style_says(style, kind, text, answer):
    assert PROMPTS[style].cut(text, kind) == answer


def test_rationales_are_shown_in_the_papers_prompts_alone():
    worked = Item("1", None, ("2",), "How many?", rationale="One, two.")
    request = PROMPTS["mm1"].write([worked], ASKED[1], "")
    assert request.prompt.startswith("Question: How many? Rationale: One, two. Short answer: 2\n")
    assert find_kind([worked], ASKED[1]) == "rationale" and request.stop == ("\n",)
    for style in ("openflamingo", "chat"):
        with pytest.raises(DataError, match=f"`prompts` {style} has no place for"):
            PROMPTS[style].write([worked], ASKED[1], "")
