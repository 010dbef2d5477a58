"""What of a row is learned: the assistant's words and their ends, never a picture."""

import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from small_models import SMART

from mm1_mlx import Processor, load, tiny
from mm1_mlx.data.examples import make_example
from mm1_mlx.data.row_forms import Record, Turn
from mm1_mlx.errors import DataError

PICTURE = tiny.render(tiny.make_scene(tiny.TESTING_SEEDS))
CHAT = Record(
    "row 1",
    (
        Turn("system", "Be brief."),
        Turn("user", "<image>What color is it?"),
        Turn("assistant", "red"),
        Turn("user", "And <image>?"),
        Turn("assistant", "It is a circle."),
    ),
    None,
    (PICTURE, PICTURE),
)


def document(text, *images):
    return Record("row 2", (), text, images)


def learned_text(example, processor):
    return processor.tokenizer.decode(example.ids[example.learned].tolist())


def test_all_of_the_assistants_turns_are_learned_and_their_ends(mm1_tiny):
    example = make_example(CHAT, mm1_tiny[1])
    assert learned_text(example, mm1_tiny[1]) == "red<|end|>It is a circle.<|end|>"


def test_what_is_learned_is_what_the_model_would_have_to_write(mm1_tiny):
    """The prompt of each turn, as ``generate`` writes it, ends where learning begins."""
    processor = mm1_tiny[1]
    example = make_example(CHAT, processor)
    starts = np.flatnonzero(np.diff(example.learned.astype(int)) == 1) + 1
    messages = [{"role": turn.role, "content": turn.text} for turn in CHAT.turns]
    for start, number in zip(starts, (2, 4), strict=True):
        places = sum(message["content"].count("<image>") for message in messages[:number])
        prompt = processor(messages[:number], [PICTURE] * places).input_ids.tolist()
        assert example.ids[:start].tolist() == prompt


def test_what_is_longer_than_the_context_is_cut_where_that_is_asked_for(mm1_tiny):
    context = mm1_tiny[1].config.text_config.max_positions
    long = document("red " * context + "<image>", PICTURE)
    with pytest.raises(DataError, match="the model's context is"):
        make_example(long, mm1_tiny[1])
    for most in (100, context, 2 * context, None):
        example = make_example(long, mm1_tiny[1], max_length=most, truncate=True)
        assert len(example) == min(most or context, context) and not example.pictures


def test_an_escaped_place_in_an_answer_is_learned_as_the_word(mm1_tiny):
    turns = (Turn("user", "<image>Its \\<image>?"), Turn("assistant", "\\<image> or <|end|>"))
    example = make_example(Record("row 1", turns, None, (PICTURE,)), mm1_tiny[1])
    assert learned_text(example, mm1_tiny[1]) == "<image> or <|end|><|end|>"
    assert len(example.pictures) == 1


def test_an_escaped_place_in_a_document_is_learned_as_the_word(mm1_tiny):
    example = make_example(document("One <image> is \\<image>", PICTURE), mm1_tiny[1])
    assert learned_text(example, mm1_tiny[1]) == "One  is <image><|end|>"


def test_the_users_turns_are_learned_where_asked_for(mm1_tiny):
    example = make_example(CHAT, mm1_tiny[1], train_on_prompt=True)
    text = learned_text(example, mm1_tiny[1])
    assert "What color is it?" in text and "Be brief." in text and "<image>" not in text


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_no_place_of_a_picture_is_learned(mm1_tiny, train_on_prompt):
    processor = mm1_tiny[1]
    example = make_example(CHAT, processor, train_on_prompt=train_on_prompt)
    visual = example.ids == processor.config.image_token_id
    assert visual.sum() == 32 and not example.learned[visual].any()


def test_tokens_between_a_pictures_rows_are_not_learned(mm1_tiny):
    processor = Processor(mm1_tiny[1].tokenizer, SMART)
    example = make_example(document("<image>red", PICTURE), processor)
    places = processor("<image>red", [PICTURE], template="plain").image_places[0]
    assert not example.learned[places.start : places.stop].any()
    assert learned_text(example, processor) == "red<|end|>"


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (document("<image>A red circle", PICTURE), "A red circle<|end|>"),
        (document("One <image> two <image> three", PICTURE, PICTURE), "One  two  three<|end|>"),
        (document("hello there"), "hello there<|end|>"),
    ],
)
def test_all_text_of_a_document_is_learned_and_that_it_ends(mm1_tiny, record, text):
    assert learned_text(make_example(record, mm1_tiny[1]), mm1_tiny[1]) == text


def test_pictures_are_not_decoded(mm1_tiny, picture, tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:-100])
    example = make_example(document("<image>red", cut), mm1_tiny[1])
    assert example.pictures[0].picture.size == (126, 126)


def test_a_row_too_long_is_refused_with_its_length(mm1_tiny):
    with pytest.raises(DataError, match=r"row 1: it is \d\d tokens, more than `max_seq_length` 30"):
        make_example(CHAT, mm1_tiny[1], max_length=30)


def test_a_row_is_never_cut_inside_a_picture(mm1_tiny):
    processor = mm1_tiny[1]
    record = document("red <image> blue <image> green", PICTURE, PICTURE)
    whole = make_example(record, processor)
    visual = whole.ids == processor.config.image_token_id
    for length in range(4, len(whole)):
        example = make_example(record, processor, max_length=length, truncate=True)
        assert len(example) <= length
        assert (example.ids == processor.config.image_token_id).sum() == 16 * len(example.pictures)
        assert example.ids.tolist() == whole.ids[: len(example)].tolist()
    assert visual.sum() == 32


def test_a_row_cut_before_its_answer_is_refused(mm1_tiny):
    with pytest.raises(DataError, match="row 1: there is nothing to learn"):
        make_example(CHAT, mm1_tiny[1], max_length=12, truncate=True)


def test_a_row_longer_than_the_context_is_refused(mm1_tiny):
    with pytest.raises(DataError, match=r"row 2: .*context is 1,024"):
        make_example(document("red " * 1200), mm1_tiny[1])


def test_a_template_that_writes_earlier_turns_otherwise_is_refused(mm1_tiny):
    """As those that leave out what the model thought in earlier turns."""
    processor = mm1_tiny[1]
    import copy

    tokenizer = copy.deepcopy(processor.tokenizer)
    template = tokenizer.chat_template.replace(
        "{{- message.content -}}",
        "{{- message.content if loop.last or message.role != 'assistant' else '(left out)' -}}",
    )
    tokenizer.chat_template = template
    if hasattr(tokenizer, "_tokenizer"):
        tokenizer._tokenizer.chat_template = template
    other = Processor(tokenizer, processor.config)
    with pytest.raises(DataError, match="message 3, 'red', is not found"):
        make_example(CHAT, other)


def test_a_model_without_a_chat_template_cannot_learn_a_conversation(mm1_tiny):
    import copy

    processor = Processor(copy.deepcopy(mm1_tiny[1].tokenizer), mm1_tiny[1].config)
    processor.tokenizer.chat_template = None
    if hasattr(processor.tokenizer, "_tokenizer"):
        processor.tokenizer._tokenizer.chat_template = None
    with pytest.raises(DataError, match="row 1: this model has no chat template"):
        make_example(CHAT, processor)


def test_the_first_token_is_never_learned(mm1_tiny):
    example = make_example(replace(CHAT, name="x"), mm1_tiny[1], train_on_prompt=True)
    assert not example.learned[0]


def test_a_text_in_another_normal_form_than_the_tokenizers_is_learned(tiny_folder):
    path = tiny_folder / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(values | {"normalizer": {"type": "NFC"}}), "utf-8")
    _, processor = load(tiny_folder, lazy=True)
    for answer in ("cafe\u0301", "\u1112\u1161\u11ab\u1100\u1173\u11af"):
        turns = (Turn("user", "a"), Turn("assistant", answer))
        example = make_example(Record("row", turns, None, ()), processor)
        assert learned_text(example, processor) == unicodedata.normalize("NFC", answer) + "<|end|>"
