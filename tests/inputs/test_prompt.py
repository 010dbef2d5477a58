import contextlib
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.prompt import IMAGE, insert_image_parts, messages_of, plain_text, split_at


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def refusal(function, *args, **options):
    with pytest.raises(PromptError) as error:
        function(*args, **options)
    return str(error.value)


# A question as chat messages


def test_a_question_is_one_user_turn():
    assert messages_of("What is it?", 0) == [user("What is it?")]


def test_pictures_without_a_place_come_first_in_a_question():
    assert messages_of("Which is larger?", 2) == [user("<image><image>Which is larger?")]


@pytest.mark.parametrize("text", ["<image>What is it?", "What is <image>?", "What is it? <image>"])
def test_a_place_stays_where_it_is(text):
    assert messages_of(text, 1) == [user(text)]


def test_a_place_alone_is_a_question():
    assert messages_of("<image>", 1) == [user("<image>")]


# A conversation


def test_pictures_without_a_place_come_first_in_the_first_user_turn():
    messages = [assistant("Hello."), user("What is it?"), assistant("A cat."), user("And now?")]
    assert messages_of(messages, 1) == [
        assistant("Hello."),
        user("<image>What is it?"),
        assistant("A cat."),
        user("And now?"),
    ]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_place_stays_in_the_turn_of_any_role(role):
    messages = [user("Look."), {"role": role, "content": "This: <image>."}, user("Well?")]
    assert messages_of(messages, 1) == messages


def test_places_stay_in_several_turns():
    messages = [user("<image>What is it?"), assistant("A cat."), user("And <image> or <image>?")]
    assert messages_of(messages, 3) == messages


def test_parts_are_joined_in_reading_order():
    parts = [
        {"type": "text", "text": "Is "},
        {"type": "image"},
        {"type": "text", "text": " like "},
        {"type": "image"},
        {"type": "text", "text": "?"},
    ]
    assert messages_of([user(parts)], 2) == [user("Is <image> like <image>?")]


def test_a_place_may_be_written_in_a_text_part():
    parts = [{"type": "text", "text": "<image>"}, {"type": "image"}]
    assert messages_of([user(parts)], 2) == [user("<image><image>")]


def test_the_callers_messages_are_left_as_they_are():
    messages = [user("What is it?"), assistant([{"type": "text", "text": "A cat."}])]
    before = copy.deepcopy(messages)
    messages_of(messages, 1, system="Be brief.")
    assert messages == before


# Text behind a picture without a place


def test_text_follows_each_picture_without_a_place():
    messages = messages_of("Which is larger?", 2, after_image="\nHuman: ")
    assert messages == [user("<image>\nHuman: <image>\nHuman: Which is larger?")]


def test_no_text_follows_a_picture_in_its_place():
    assert messages_of("<image>What is it?", 1, after_image="\nHuman: ") == [user("<image>What is it?")]


# Parts for chat templates that write the image token

PART = {"type": "image"}


def text_part(text):
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Is <image> it?", [text_part("Is "), PART, text_part(" it?")]),
        ("<image><image>Which?", [PART, PART, text_part("Which?")]),
        ("What? <image>", [text_part("What? "), PART]),
        ("What is it?", [text_part("What is it?")]),
        ("<image>", [PART]),
        ("", []),
    ],
)
def test_pictures_and_the_texts_between_become_parts_in_order(text, parts):
    assert insert_image_parts(assistant(text), PART) == assistant(parts)


# Cuts


def test_text_is_cut_before_and_after_each_mark():
    assert split_at("a<b>c<b><b>", ["<b>"]) == ["a", "<b>", "c", "<b>", "<b>"]


def test_the_longest_of_two_marks_is_cut_out():
    assert split_at("AI: Hi", ["AI", "AI: "]) == ["AI: ", "Hi"]


def test_marks_are_no_patterns():
    assert split_at("a.b|c", [".", "|"]) == ["a", ".", "b", "|", "c"]


def test_text_without_marks_is_one_piece():
    assert split_at("abc", ["<b>"]) == ["abc"]


MARKS = st.lists(st.text("ab<", min_size=1, max_size=3), min_size=1, max_size=3)


@given(text=st.text("ab<c"), marks=MARKS)
def test_cutting_loses_nothing_and_leaves_no_empty_piece(text, marks):
    pieces = split_at(text, marks)
    assert "".join(pieces) == text
    assert "" not in pieces


@given(text=st.text("ab<c"), marks=MARKS)
def test_no_mark_is_left_inside_a_piece(text, marks):
    assert all(piece in marks or not any(mark in piece for mark in marks) for piece in split_at(text, marks))


# The system message


def test_a_system_message_comes_before_the_conversation():
    assert messages_of("What is it?", 0, system="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        user("What is it?"),
    ]


def test_pictures_without_a_place_do_not_go_into_the_system_message():
    messages = messages_of("What is it?", 1, system="Be brief.")
    assert [m["content"] for m in messages] == ["Be brief.", "<image>What is it?"]


def test_a_place_in_the_system_message_counts():
    messages = messages_of("What is it?", 1, system="Look at <image>.")
    assert [m["content"] for m in messages] == ["Look at <image>.", "What is it?"]


# Plain text


def test_pictures_without_a_place_come_first_in_plain_text():
    assert plain_text("A photo of", 2) == "<image><image>A photo of"


def test_places_stay_in_plain_text():
    text = "<image> a cat\n<image> a dog\n<image>"
    assert plain_text(text, 3) == text


def test_plain_text_without_pictures_is_unchanged():
    assert plain_text(" Once upon a time\n", 0) == " Once upon a time\n"


# What is refused


@pytest.mark.parametrize("function", [messages_of, plain_text])
@pytest.mark.parametrize(
    ("num_places", "num_images", "message"),
    [
        (2, 1, "the prompt has 2 <image> but 1 `image` was given."),
        (1, 2, "the prompt has 1 <image> but 2 `image` were given."),
        (1, 0, "the prompt has 1 <image> but 0 `image` were given."),
    ],
)
def test_places_and_pictures_that_differ_in_number_are_refused_with_both(
    function, num_places, num_images, message
):
    assert refusal(function, "Look: " + IMAGE * num_places, num_images) == message


def test_places_are_counted_over_all_turns():
    messages = [user("<image>What is it?"), assistant("A cat."), user("And <image>?")]
    assert refusal(messages_of, messages, 1) == "the prompt has 2 <image> but 1 `image` was given."


@pytest.mark.parametrize("function", [messages_of, plain_text])
@pytest.mark.parametrize("text", ["", " \n\t"])
@pytest.mark.parametrize("num_images", [0, 1])
def test_an_empty_prompt_is_refused(function, text, num_images):
    assert refusal(function, text, num_images) == "the prompt is empty; ask something with `prompt`."


@pytest.mark.parametrize("messages", [[], [user("")], [user([])], [user(" "), assistant("")]])
def test_an_empty_conversation_is_refused(messages):
    assert "the prompt is empty" in refusal(messages_of, messages, 0)


def test_a_system_message_alone_is_no_prompt():
    assert "the prompt is empty" in refusal(messages_of, "", 0, system="Be brief.")


@pytest.mark.parametrize("role", ["tool", "User", "", None])
def test_an_unknown_role_is_refused_by_name(role):
    message = {"role": role, "content": "Hello."}
    expected = f"a message has role {role!r}, expected system, user or assistant."
    assert refusal(messages_of, [message], 0) == expected


def test_a_message_without_a_role_is_refused():
    expected = "a message has role None, expected system, user or assistant."
    assert refusal(messages_of, [{"content": "Hello."}], 0) == expected


@pytest.mark.parametrize("content", [None, 3, {"type": "image"}])
def test_a_content_that_is_neither_text_nor_parts_is_refused(content):
    expected = f"a message's content is {content!r}, expected text or a list of parts."
    assert refusal(messages_of, [user(content)], 0) == expected


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video"},
        {"type": "image_url", "image_url": {"url": "cat.png"}},
        {"type": "text"},
        {"type": "text", "text": 3},
        {"text": "Hello."},
        "Hello.",
    ],
)
def test_an_unknown_part_is_refused_and_shown(part):
    expected = f'a part of a message is {part!r}, expected {{"type": "image"}} or text.'
    assert refusal(messages_of, [user([part])], 0) == expected


# Any text, any number of pictures

TEXTS = st.lists(st.sampled_from([IMAGE, "<image", "image>", "<", "a", " ", "\n", "é"]), max_size=8).map(
    "".join
)
TURNS = st.lists(
    st.builds(
        lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant"]), TEXTS
    ),
    max_size=4,
)


def places_of(prompt, num_images, system=None):
    return sum(m["content"].count(IMAGE) for m in messages_of(prompt, num_images, system=system))


@given(prompt=TEXTS | st.text() | TURNS, num_images=st.integers(0, 4), system=st.none() | TEXTS)
def test_messages_have_one_place_a_picture_or_are_refused(prompt, num_images, system):
    with contextlib.suppress(PromptError):
        assert places_of(prompt, num_images, system) == num_images


@given(prompt=TEXTS | st.text(), num_images=st.integers(0, 4))
def test_plain_text_has_one_place_a_picture_or_is_refused(prompt, num_images):
    with contextlib.suppress(PromptError):
        assert plain_text(prompt, num_images).count(IMAGE) == num_images


@given(prompt=TEXTS | st.text())
def test_a_prompt_that_is_not_empty_takes_as_many_pictures_as_it_has_places(prompt):
    text = prompt + "."
    assert plain_text(text, text.count(IMAGE)) == text
    assert messages_of(text, text.count(IMAGE)) == [user(text)]
