"""What the processor makes of pictures that are cut into views or keep their sides."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from small_models import ANYRES, PAIR, ROW_ID, SMALL, SMART

from mm1_mlx.config import PromptConfig
from mm1_mlx.errors import PictureError, PromptError
from mm1_mlx.inputs.layout import layout
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.sub_images import views
from mm1_mlx.tiny import IMAGE_ID

SIZES = [(40, 30), (16, 90), (9, 9)]  # width, height
PROMPT = "What is <image> beside <image> and <image>?"


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


PICTURES = [noise(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture
def tokenizer(mm1_tiny):
    return mm1_tiny[1].tokenizer


@pytest.fixture
def inputs_of(tokenizer):
    """The inputs that a model of some configuration gets for three pictures."""
    return lambda config, prompt=PROMPT, images=PICTURES: Processor(tokenizer, config)(prompt, images)


def at_places(inputs):
    """The ids of each picture's stretch, and those of the text around."""
    ids = inputs.input_ids.tolist()
    inside = {position for places in inputs.image_places for position in places}
    stretches = [[ids[position] for position in places] for places in inputs.image_places]
    return stretches, [id for position, id in enumerate(ids) if position not in inside]


@pytest.mark.parametrize("config", [ANYRES, SMART, PAIR], ids=["anyres", "smart", "pair"])
def test_each_picture_has_the_stretch_of_its_layout(inputs_of, config):
    stretches, _ = at_places(inputs_of(config))
    assert stretches == [layout(size, config).ids for size in SIZES]


@pytest.mark.parametrize("config", [ANYRES, SMART, PAIR], ids=["anyres", "smart", "pair"])
def test_the_text_around_pictures_does_not_depend_on_how_they_are_cut(inputs_of, config):
    assert at_places(inputs_of(config))[1] == at_places(inputs_of(SMALL))[1]


@pytest.mark.parametrize("config", [ANYRES, SMART, PAIR], ids=["anyres", "smart", "pair"])
def test_visual_tokens_are_the_image_tokens_among_the_ids(inputs_of, config):
    inputs = inputs_of(config)
    assert inputs.num_visual_tokens == inputs.input_ids.tolist().count(IMAGE_ID)


# Cut into sub-images whose padding is dropped


def test_the_order_of_all_pictures_numbers_their_visual_tokens_one_after_the_other(inputs_of):
    expected, made = [], 0
    for size in SIZES:
        found = layout(size, ANYRES)
        expected += [-1 if number < 0 else made + number for number in found.order]
        made += found.num_made
    inputs = inputs_of(ANYRES)
    assert inputs.token_order.tolist() == expected
    assert inputs.token_order.dtype == mx.int32
    assert len(inputs.pixel_values) * ANYRES.connector_config.num_visual_tokens == made


def test_every_image_token_has_a_place_in_the_order(inputs_of):
    inputs = inputs_of(ANYRES)
    assert len(inputs.token_order) == inputs.num_visual_tokens


def test_a_prompt_without_pictures_has_no_order(inputs_of):
    assert inputs_of(ANYRES, "What is it?", []).token_order is None


@pytest.mark.parametrize("config", [SMALL, SMART, PAIR], ids=["one view", "smart", "pair"])
def test_visual_tokens_that_stand_as_they_come_have_no_order(inputs_of, config):
    assert inputs_of(config).token_order is None


# Sides kept


def test_pictures_that_keep_their_sides_come_one_by_one(inputs_of):
    pixels = inputs_of(SMART).pixel_values
    assert [view.shape for view in pixels] == [(32, 40, 3), (88, 16, 3), (16, 16, 3)]
    for view, picture in zip(pixels, PICTURES, strict=True):
        expected = normalize(views(Image.fromarray(picture), SMART.image_config), SMART.image_config)
        np.testing.assert_array_equal(np.array(view), expected[0])


def test_a_row_token_stands_before_every_row_of_a_picture(inputs_of):
    stretches, _ = at_places(inputs_of(SMART))
    rows = [(4, 5), (11, 2), (2, 2)]
    assert stretches == [([ROW_ID] + [IMAGE_ID] * columns) * number for number, columns in rows]


def test_row_tokens_count_as_text(inputs_of):
    assert inputs_of(SMART).num_visual_tokens == 4 * 5 + 11 * 2 + 2 * 2


def test_without_a_row_token_a_picture_is_its_visual_tokens(inputs_of):
    stretches, _ = at_places(inputs_of(replace(SMART, prompt_config=PromptConfig())))
    assert stretches == [[IMAGE_ID] * number for number in (20, 22, 4)]


def test_without_pictures_there_are_no_views(inputs_of):
    assert inputs_of(SMART, "What is it?", []).pixel_values == []


def test_a_thread_of_a_picture_is_refused(inputs_of):
    with pytest.raises(PictureError, match="one side is more than 200 times the other"):
        inputs_of(SMART, "What is it?", [noise(402, 2)])


def test_a_prompt_too_long_with_its_pictures_counts_row_tokens_with_the_pictures(inputs_of):
    config = replace(SMART, text_config=replace(SMART.text_config, max_positions=60))
    text = len(inputs_of(SMART).input_ids) - 63
    with pytest.raises(PromptError) as refusal:
        inputs_of(config)
    assert str(refusal.value) == (
        f"the prompt is {text + 63} tokens, but the model's context is 60, answer included. "
        f"It costs: text {text}; picture 1: 24 (40 x 30 pixels, 1 view); picture 2: 33 (16 x 90 pixels, 1 view); "
        "picture 3: 6 (9 x 9 pixels, 1 view). To make room, give fewer pictures or shots."
    )


def test_a_hopeless_prompt_is_refused_before_a_picture_that_keeps_its_sides_is_opened(inputs_of):
    with pytest.raises(PromptError, match="pictures 1 to 600: at least 1 each"):
        inputs_of(SMART, "Compare.", ["no-such.png"] * 600)


# Mixed resolution

STATIC = replace(SMALL, image_config=SMALL.image_config.changed(sub_images="static"))
RULE = {"sub_images": "dynamic", "min_sub_images": 4, "max_sub_images": 9}
DYNAMIC = replace(SMALL, image_config=SMALL.image_config.changed(**RULE))
TAGGED = replace(SMALL, image_config=DYNAMIC.image_config.changed(position_tags="index"))
EACH = SMALL.connector_config.num_visual_tokens  # visual tokens of one view


@pytest.fixture
def processor_of(tokenizer):
    return lambda config: Processor(tokenizer, config)


def with_context(config, max_positions):
    return replace(config, text_config=replace(config.text_config, max_positions=max_positions))


def stretches_of(inputs):
    return at_places(inputs)[0]


def prompt_of(processor, num_low_resolution, sizes=((40, 30), (16, 90), (64, 16))):
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    return processor("Compare.", images, num_low_resolution=num_low_resolution), images


@pytest.mark.parametrize(
    "config",
    [STATIC, DYNAMIC, TAGGED, ANYRES, SMALL, SMART],
    ids=["static", "dynamic", "tagged", "anyres", "one view", "smart"],
)
def test_the_first_pictures_have_one_view_each(processor_of, config):
    processor = processor_of(with_context(config, 2048))
    inputs, images = prompt_of(processor, 2)
    whole = processor.with_image_config(sub_images="none")
    first = whole("Compare.", images[:2])
    assert stretches_of(inputs)[:2] == stretches_of(first)
    for found, expected in zip(
        inputs.pixel_values[: len(first.pixel_values)], first.pixel_values, strict=True
    ):
        assert mx.array_equal(found, expected)


def test_the_other_pictures_are_cut_as_without_them(processor_of):
    processor = processor_of(DYNAMIC)
    inputs, images = prompt_of(processor, 1)
    alone = processor("Compare.", images[1:])
    assert stretches_of(inputs)[1:] == stretches_of(alone)
    assert mx.array_equal(inputs.pixel_values[1:], alone.pixel_values)


def test_tags_count_the_pictures_of_low_resolution_too(processor_of):
    processor = processor_of(TAGGED)
    inputs, _ = prompt_of(processor, 2)
    tag = processor.tokenizer.encode("(2,1,1)", add_special_tokens=False)
    assert stretches_of(inputs)[2][: len(tag)] == tag


def test_orders_go_on_behind_pictures_of_low_resolution(processor_of):
    inputs, _ = prompt_of(processor_of(ANYRES), 1, ((40, 30), (64, 16)))
    order = inputs.token_order.tolist()
    found = layout((64, 16), ANYRES).order
    assert order == [*range(EACH), *[number if number < 0 else EACH + number for number in found]]


def test_all_pictures_may_have_low_resolution(processor_of):
    inputs, _ = prompt_of(processor_of(STATIC), 3)
    assert inputs.num_visual_tokens == 3 * EACH


def test_mixed_resolution_fits_a_context_that_full_resolution_does_not(processor_of):
    processor = processor_of(with_context(STATIC, 60))
    with pytest.raises(
        PromptError,
        match=r"picture 3: 20 \(64 x 16 pixels, 5 views\). To make room, cut pictures into fewer sub-images",
    ):
        prompt_of(processor, 0)
    assert prompt_of(processor, 2)[0].num_visual_tokens == 7 * EACH


@pytest.mark.parametrize("num_low_resolution", [-1, 4])
def test_a_number_of_pictures_that_there_are_not_is_refused(processor_of, num_low_resolution):
    with pytest.raises(PromptError) as error:
        prompt_of(processor_of(STATIC), num_low_resolution)
    assert str(error.value) == (
        f"num_low_resolution is {num_low_resolution}, expected 0 to 3, the number of pictures."
    )


def test_a_pair_of_connectors_has_no_low_resolution(processor_of):
    with pytest.raises(PromptError) as error:
        prompt_of(processor_of(PAIR), 1)
    assert str(error.value) == (
        "num_low_resolution is 1, but this model's connector needs 5 views of every picture; leave it at 0."
    )
