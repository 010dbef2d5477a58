import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.few_shot import STOP, Shot, choose_shots, cut_at_stop, few_shot, read_shots
from mm1_mlx.inputs.prompt import IMAGE

EXAMPLES = Path(__file__).parents[2] / "examples" / "shots"

CAPTIONS = [Shot("cat.png", caption="a cat."), Shot("dog.png", caption="a dog.")]
QUESTIONS = [
    Shot("cat.png", question="What is it?", answer="cat"),
    Shot("dog.png", question="Is it a cat?", answer="no"),
]
RATIONALES = [
    Shot("cat.png", question="What is it?", rationale="It purrs.", answer="cat"),
    Shot("dog.png", question="Is it a cat?", rationale="It barks.", answer="no"),
]


def refusal(function, *args, **options):
    with pytest.raises(PromptError) as error:
        function(*args, **options)
    return str(error.value)


# The prompt, byte for byte


def test_captions_are_lines_and_the_query_is_open_after_of():
    prompt = few_shot(CAPTIONS, Shot("bird.png"))
    assert prompt.text == "<image>A photo of a cat.\n<image>A photo of a dog.\n<image>A photo of"
    assert prompt.images == ["cat.png", "dog.png", "bird.png"]
    assert prompt.kind == "caption"


def test_questions_are_lines_and_the_query_is_open_after_the_colon():
    prompt = few_shot(QUESTIONS, Shot("bird.png", question="Can it fly?"))
    assert prompt.text == (
        "<image>Question: What is it? Short answer: cat\n"
        "<image>Question: Is it a cat? Short answer: no\n"
        "<image>Question: Can it fly? Short answer:"
    )
    assert prompt.kind == "question"


def test_rationales_come_before_answers_and_the_query_is_open_for_its_own():
    prompt = few_shot(RATIONALES, Shot("bird.png", question="Can it fly?"))
    assert prompt.text == (
        "<image>Question: What is it? Rationale: It purrs. Short answer: cat\n"
        "<image>Question: Is it a cat? Rationale: It barks. Short answer: no\n"
        "<image>Question: Can it fly? Rationale:"
    )
    assert prompt.kind == "rationale"


def test_without_shots_the_query_stands_alone():
    assert few_shot([], Shot("bird.png")).text == "<image>A photo of"
    assert few_shot([], QUESTIONS[0]).text == "<image>Question: What is it? Short answer:"


@pytest.mark.parametrize("shots", [QUESTIONS, RATIONALES])
def test_the_querys_own_answer_and_rationale_are_not_shown(shots):
    query = Shot("bird.png", question="Can it fly?", rationale="It has wings.", answer="yes")
    assert few_shot(shots, query) == few_shot(shots, Shot("bird.png", question="Can it fly?"))


def test_the_querys_own_caption_is_not_shown():
    assert few_shot(CAPTIONS, Shot("bird.png", caption="a bird.")) == few_shot(CAPTIONS, Shot("bird.png"))


def test_a_shot_without_a_picture_has_no_place():
    prompt = few_shot([Shot(question="1 + 1?", answer="2"), QUESTIONS[0]], Shot(question="2 + 2?"))
    assert prompt.text == (
        "Question: 1 + 1? Short answer: 2\n"
        "<image>Question: What is it? Short answer: cat\n"
        "Question: 2 + 2? Short answer:"
    )
    assert prompt.images == ["cat.png"]


@pytest.mark.parametrize("query", [Shot("bird.png", question="Can it fly?"), Shot(question="2 + 2?")])
def test_the_shots_pictures_are_the_ones_of_low_resolution(query):
    assert few_shot(QUESTIONS, query).num_low_resolution == 2


def test_texts_are_stripped():
    shot = Shot(question=" What is it?\n", answer="\tcat ", rationale=" It purrs.\n")
    assert shot == Shot(question="What is it?", answer="cat", rationale="It purrs.")


def test_a_question_may_have_several_lines():
    assert few_shot([], Shot(question="Which?\nA. cat")).text == "Question: Which?\nA. cat Short answer:"


def test_the_processor_takes_the_prompt_as_plain_text(mm1_tiny):
    _, processor = mm1_tiny
    prompt = few_shot(
        read_shots(EXAMPLES / "shots.jsonl")[:2],
        Shot(EXAMPLES / "star-and-cross.png", question="What is red?"),
    )
    inputs = processor(prompt.text, prompt.images, template="plain")
    assert len(inputs.image_places) == 3


WORDS = st.text("ab<im>é.", min_size=1, max_size=6).filter(lambda text: IMAGE not in text)
PICTURES = st.none() | st.sampled_from(["cat.png", Path("dog.png"), b"bytes"])


@st.composite
def shots_and_query(draw):
    names = draw(st.sampled_from([["caption"], ["question", "answer"], ["question", "answer", "rationale"]]))
    shot = st.builds(Shot, PICTURES, **dict.fromkeys(names, WORDS))
    return draw(st.lists(shot, max_size=8)), draw(shot)


@given(shots_and_query())
def test_there_is_one_place_for_every_picture(given_shots):
    shots, query = given_shots
    prompt = few_shot(shots, query)
    assert prompt.text.count(IMAGE) == len(prompt.images)
    assert prompt.num_low_resolution == len(prompt.images) - (query.image is not None)
    assert prompt.text.count("\n") == len(shots)
    assert prompt.text == prompt.text.rstrip()


# What the model wrote


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        (" a cat, asleep.\n<image>A photo of", "caption", "a cat, asleep."),
        (" a cat", "caption", "a cat"),
        (" cat\nQuestion: Is", "question", "cat"),
        (" cat. It is", "question", "cat"),
        (" cat, asleep", "question", "cat"),
        (" cat Question: Is", "question", "cat"),
        ("\ncat", "question", ""),
        (" It purrs, so. Short answer: cat, asleep\n<image>", "rationale", "cat"),
        (" It purrs.\nShort answer: cat", "rationale", ""),
        ("", "caption", ""),
    ],
)
def test_an_answer_ends_at_the_first_stop(text, kind, answer):
    assert cut_at_stop(text, kind) == answer


@pytest.mark.parametrize(("shots", "answer"), [(CAPTIONS, "a dog."), (QUESTIONS, "no"), (RATIONALES, "no")])
def test_what_a_worked_example_continues_with_is_cut_to_its_answer(shots, answer):
    prompt = few_shot(shots[:1], shots[1])
    continued = few_shot(shots, shots[0]).text
    assert continued.startswith(prompt.text)
    assert cut_at_stop(continued.removeprefix(prompt.text), prompt.kind) == answer


def test_the_stops_are_those_of_the_protocol():
    assert STOP["caption"] == ("\n",)
    assert STOP["question"] == ("\n", ".", ",", "Question")


# The choice

MANY = [Shot(caption=str(number)) for number in range(20)]


def test_the_choice_is_a_function_of_the_seed():
    assert choose_shots(MANY, 8, 0) == choose_shots(MANY, 8, 0)
    assert choose_shots(MANY, 8, 0) != choose_shots(MANY, 8, 1)
    assert [shot.caption for shot in choose_shots(MANY, 4, 0)] == ["10", "18", "16", "14"]


@given(seed=st.integers(0), few=st.integers(0, 20), more=st.integers(0, 20))
def test_fewer_shots_are_the_first_of_more_and_none_comes_twice(seed, few, more):
    few, more = sorted((few, more))
    chosen = choose_shots(MANY, more, seed)
    assert choose_shots(MANY, few, seed) == chosen[:few]
    assert len(set(chosen)) == more


def test_without_a_seed_the_first_ones_are_taken():
    assert choose_shots(MANY, 3, None) == MANY[:3]


def test_choosing_leaves_the_order_of_the_file():
    shots = list(MANY)
    choose_shots(shots, 8, 0)
    assert shots == MANY


@pytest.mark.parametrize("num_shots", [3, -1])
def test_more_shots_than_there_are_are_refused_with_both_numbers(num_shots):
    expected = f"{num_shots} shots were asked for, but there are 2; ask for 0 to 2."
    assert refusal(choose_shots, CAPTIONS, num_shots, 0) == expected


# The file


@pytest.fixture
def shots_file(tmp_path, picture):
    """Writes lines beside ``scene.png``; values that are not text become JSON."""
    (tmp_path / "scene.png").write_bytes(picture.read_bytes())

    def write(*lines):
        path = tmp_path / "shots.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return path

    return write


def test_the_example_file_is_read():
    shots = read_shots(EXAMPLES / "shots.jsonl")
    assert len(shots) == 4
    assert all(shot.image.is_file() and shot.image.stat().st_size < 5000 for shot in shots)


def test_pictures_are_beside_the_file_inside_it_or_nowhere(shots_file, picture, monkeypatch):
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    path = shots_file(
        {"image": "scene.png", "caption": "a"},
        {"image": url, "caption": "b"},
        {"image": None, "caption": "c"},
    )
    monkeypatch.chdir(path.parent.parent)
    expected = [Shot(path.parent / "scene.png", "a"), Shot(url, "b"), Shot(None, "c")]
    assert read_shots(path) == read_shots(str(path)) == expected


def test_blank_lines_are_passed_over_and_a_byte_order_mark_is_no_text(shots_file):
    path = shots_file("\ufeff" + '{"caption": "a"}', "", '{"caption": "b\u2028c"}', "")
    assert read_shots(path) == [Shot(caption="a"), Shot(caption="b\u2028c")]


def test_a_rationale_is_read(shots_file):
    path = shots_file({"image": "scene.png", "question": "a", "rationale": "b", "answer": "c"})
    assert read_shots(path) == [Shot(path.parent / "scene.png", question="a", rationale="b", answer="c")]


# What is refused

ASKED = {"question": "What is it?", "answer": "cat"}
FAULTS = [
    (
        '{"caption": "a cat"',
        "this is not JSON (Expecting ',' delimiter at column 20); write one object a line.",
    ),
    (["a cat"], "this is ['a cat'], expected a JSON object."),
    ({"captoin": "a cat"}, "there is no key 'captoin'; did you mean caption?"),
    ({"xyz": "a"}, "there is no key 'xyz'; known keys: image, caption, question, answer, rationale."),
    ({"question": "How many?", "answer": 3}, "answer is 3, expected text."),
    ({"caption": " \n"}, "caption is empty; write it, or leave it out."),
    (ASKED | {"rationale": ""}, "rationale is empty; write it, or leave it out."),
    ({"caption": "<image>a"}, "caption holds <image>; leave it out, the picture comes first by itself."),
    ({"caption": "a\nb"}, "caption holds a newline, which ends an answer; write it on one line."),
    (ASKED | {"caption": "a cat"}, "caption and question do not go together; keep one of them."),
    ({"caption": "a cat", "answer": "b"}, "caption and answer do not go together; keep one of them."),
    ({"answer": "cat"}, "answer stands without a question; add the question."),
    ({"rationale": "It purrs."}, "rationale stands without a question; add the question."),
    ({}, "there is neither caption nor question; add one of them."),
    ({"question": "What is it?"}, "the question has no answer; add it."),
    (ASKED, "this is a question but {path}, line 1 is a caption; shots are of one kind."),
    (
        {"image": "https://example.com/cat.png", "caption": "a cat"},
        "image is the web address https://example.com/cat.png; download the picture and give its path.",
    ),
    ({"image": "data:cat", "caption": "a"}, "image: a data: URL must look like data:image/png;base64,…"),
    *(
        (
            {"image": name, "caption": "a"},
            f"image is {name!r}, but there is no such file in {{folder}}; give a path from there.",
        )
        for name in ("cat.png", "", ".", "-", "\0", "a" * 300)
    ),
]


def test_a_fault_is_named_with_its_file_and_line(shots_file, subtests):
    for line, message in FAULTS:
        with subtests.test(msg=message[:60]):
            path = shots_file({"caption": "a"}, "", line)
            expected = message.replace("{path}", str(path)).replace("{folder}", str(path.parent))
            assert refusal(read_shots, path) == f"{path}, line 3: {expected}"


def test_json_without_end_is_refused(shots_file):
    assert "line 1: this is not JSON" in refusal(read_shots, shots_file("[" * 100_000))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    expected = "cannot be read: No such file or directory; give a JSON-lines file of shots."
    assert refusal(read_shots, tmp_path / "none.jsonl") == f"{tmp_path / 'none.jsonl'} {expected}"


def test_a_file_that_is_no_text_is_refused(picture):
    assert refusal(read_shots, picture).startswith(f"{picture} cannot be read: 'utf-8' codec can't decode")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_shots_is_refused(shots_file, text):
    path = shots_file(text)
    assert refusal(read_shots, path) == f"{path} holds no shots; write one JSON object a line."


@pytest.mark.parametrize(
    ("shots", "query", "message"),
    [
        (
            [*CAPTIONS, QUESTIONS[0]],
            Shot(),
            "shot 3: this is a question but shot 1 is a caption; shots are of one kind.",
        ),
        (
            [RATIONALES[0], QUESTIONS[0]],
            QUESTIONS[1],
            "shot 2: this is a question but shot 1 is a question with a rationale; shots are of one kind.",
        ),
        (QUESTIONS, Shot("bird.png"), "the query has no question but the shots are questions; add one."),
        (
            CAPTIONS,
            QUESTIONS[0],
            "the query has a question but the shots are captions; leave the question out.",
        ),
        ([Shot("cat.png")], Shot(), "shot 1: there is neither caption nor question; add one of them."),
        ([Shot(question="What is it?")], QUESTIONS[0], "shot 1: the question has no answer; add it."),
    ],
)
def test_shots_and_query_that_do_not_fit_are_refused(shots, query, message):
    assert refusal(few_shot, shots, query) == message


# As the model reads it


def test_the_processor_reads_what_is_written(mm1_tiny, picture):
    _, processor = mm1_tiny
    shots = [Shot(picture, question="What color is it?", answer="red")] * 2
    query = Shot(picture, question="What color is the circle?")
    prompt = few_shot(shots, query)
    inputs = processor.few_shot(shots, query)
    assert (
        inputs.input_ids.tolist()
        == processor(prompt.text, prompt.images, template="plain").input_ids.tolist()
    )


def test_the_processor_leaves_shots_at_low_resolution(mm1_tiny, picture):
    processor = mm1_tiny[1].with_image_config(sub_images="static")
    shots = [Shot(picture, caption="a red circle")] * 2
    inputs = processor.few_shot(shots, Shot(picture), low_resolution=True)
    assert inputs.num_views == (1, 1, 5)
    assert processor.few_shot(shots, Shot(picture)).num_views == (5, 5, 5)
