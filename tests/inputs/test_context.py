"""A prompt that does not fit says what each of its parts costs, and what to lower."""

import pytest

from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.context import PictureCost, require_context


def refusal(context, num_text, pictures=(), messages=()):
    with pytest.raises(PromptError) as error:
        require_context(context, num_text, pictures, lambda: messages)
    return str(error.value)


def test_what_fits_passes_and_its_messages_are_not_asked_for():
    require_context(10, 5, [PictureCost(4)], lambda: 1 // 0)
    require_context(None, 10**9, [], lambda: 1 // 0)


def test_an_answer_needs_room_for_one_token():
    assert "the prompt is 9 tokens, but the model's context is 9" in refusal(9, 5, [PictureCost(4)])


def test_pictures_of_one_cost_are_told_together():
    pictures = [PictureCost(144, 1, (378, 378))] * 3 + [PictureCost(720, 5, (4032, 3024))]
    assert (
        "text 90; pictures 1 to 3: 144 (378 x 378 pixels, 1 view) each; "
        "picture 4: 720 (4032 x 3024 pixels, 5 views)." in refusal(1000, 90, pictures)
    )


def test_each_message_is_told():
    message = refusal(50, 60, [], [("system", 20), ("user", 40)])
    assert "It costs: text 60 (system 20, user 40)." in message


@pytest.mark.parametrize(
    ("num_text", "pictures", "advice"),
    [
        (900, [PictureCost(100)], "To make room, shorten the text."),
        (10, [PictureCost(900, 5, (9, 9))], "To make room, cut pictures into fewer sub-images"),
        (10, [PictureCost(100)] * 9, "To make room, give fewer pictures or shots."),
        (10, [PictureCost(900)], "To make room, shorten the text or lower `image_size`."),
    ],
)
def test_the_advice_is_for_what_costs_most(num_text, pictures, advice):
    assert advice in refusal(500, num_text, pictures)


def test_the_processor_tells_each_message(mm1_tiny):
    messages = [{"role": "user", "content": "red " * 1500}, {"role": "assistant", "content": "blue"}]
    with pytest.raises(PromptError, match=r"\(system \d+, user 1,5\d\d, assistant \d+\)"):
        mm1_tiny[1](messages, system="Be brief.")
