"""High-resolution settings from prompt to visual tokens: costs, position tags, overrides."""

from dataclasses import replace
from itertools import product

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_models import ANYRES, PAIR, SMALL, SMART

from mm1_mlx.config import MM1Config
from mm1_mlx.errors import ConfigError, PictureError, PromptError
from mm1_mlx.inputs.layout import layout
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.sub_images import views
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.model.resample import bicubic_weights
from mm1_mlx.tiny import IMAGE_ID

EACH = SMALL.connector_config.num_visual_tokens  # visual tokens of one view
DYNAMIC_RULE = {"sub_images": "dynamic", "min_sub_images": 4, "max_sub_images": 9}


def with_rule(config=SMALL, **changes):
    return replace(config, image_config=config.image_config.changed(**changes))


STATIC = with_rule(sub_images="static")
DYNAMIC = with_rule(**DYNAMIC_RULE)
TAGGED = with_rule(**DYNAMIC_RULE, position_tags="index")
QUADRANTS = with_rule(sub_images="quadrants")
EXTRA = replace(DYNAMIC, connector_config=replace(SMALL.connector_config, num_extra_tokens=2))
ALL = {
    "one view": SMALL,
    "static": STATIC,
    "dynamic": DYNAMIC,
    "extra tokens": EXTRA,
    "tagged": TAGGED,
    "quadrants": QUADRANTS,
    "anyres": ANYRES,
    "smart": SMART,
    "pair": PAIR,
}


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def processor_of(mm1_tiny):
    return lambda config: Processor(mm1_tiny[1].tokenizer, config)


def stretches(inputs):
    ids = inputs.input_ids.tolist()
    return [[ids[position] for position in places] for places in inputs.image_places]


def letters(text):
    return [ord(letter) for letter in text]


# What a picture costs


@pytest.fixture(scope="module")
def models():
    return {name: MM1(config) for name, config in ALL.items()}


def test_the_layout_counts_what_the_model_makes(models, subtests):
    sizes = [(1, 1), (16, 16), (40, 30), (16, 90), (90, 7)]
    for name, size, num_images in product(ALL, sizes, [1, 3]):
        with subtests.test(msg=f"{name}, {size}, {num_images} pictures"):
            config = ALL[name]
            cut = views(Image.fromarray(noise(*size)), config.image_config, num_images=num_images)
            pixels = mx.array(np.stack([np.asarray(view) for view in cut]), dtype=mx.float32)
            made = models[name].encode_images(pixels).flatten(0, 1)
            found = layout(size, config, num_images=num_images, encode=letters)
            assert found.num_made == len(made)
            order = range(found.num_made) if found.order is None else found.order
            assert found.ids.count(IMAGE_ID) == len(order)


@pytest.mark.parametrize("num_images", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_the_cost_told_beforehand_is_what_the_picture_then_costs(processor_of, name, num_images):
    processor = processor_of(with_context(ALL[name], 2048))
    inputs = processor("Compare.", [noise(40, 30)] * num_images)
    assert inputs.num_visual_tokens == num_images * processor.num_visual_tokens(40, 30, num_images=num_images)


def with_context(config, max_positions):
    return replace(config, text_config=replace(config.text_config, max_positions=max_positions))


SIDE = st.integers(1, 20_000)


@settings(max_examples=60)
@example((1, 1), 1)
@example((20_000, 50), 2)
@example((50, 20_000), 3)
@given(st.tuples(SIDE, SIDE), st.integers(1, 4))
def test_a_split_picture_costs_no_less_and_no_more_than_allowed(processor_of, size, num_images):
    cost = processor_of(DYNAMIC).num_visual_tokens(*size, num_images=num_images)
    assert cost == EACH if num_images > 2 else 5 * EACH <= cost <= 10 * EACH


def test_static_sub_images_cost_five_times_one_view(processor_of):
    assert processor_of(STATIC).num_visual_tokens(1, 9000, num_images=8) == 5 * EACH


def test_tags_are_not_counted_as_visual_tokens(processor_of):
    costs = [processor_of(config).num_visual_tokens(40, 30) for config in (DYNAMIC, TAGGED)]
    assert costs[0] == costs[1]


def test_a_cost_that_cannot_be_is_refused(processor_of):
    with pytest.raises(PictureError, match="one side is more than 200 times the other"):
        processor_of(SMART).num_visual_tokens(402, 2)


# Position tags


def test_each_sub_image_is_preceded_by_its_index():
    found = layout((64, 16), TAGGED, num_images=2, picture_number=1, encode=letters)
    tags = ["(1,1,1)", "(1,1,2)", "(1,1,3)", "(1,1,4)", "(1,0,0)"]
    assert found.ids == [id for tag in tags for id in [*letters(tag), *[IMAGE_ID] * EACH]]
    assert (found.num_made, found.order) == (5 * EACH, None)


def test_static_sub_images_have_the_overviews_index_first():
    config = with_rule(sub_images="static", position_tags="index")
    tags = ["(0,0,0)", "(0,1,1)", "(0,1,2)", "(0,2,1)", "(0,2,2)"]
    expected = [id for tag in tags for id in [*letters(tag), *[IMAGE_ID] * EACH]]
    assert layout((5, 300), config, encode=letters).ids == expected


@pytest.mark.parametrize(
    ("config", "num_images"), [(with_rule(TAGGED, min_sub_images=1), 1), (TAGGED, 3)], ids=["small", "many"]
)
def test_a_picture_of_one_view_has_no_tag(config, num_images):
    assert layout((16, 16), config, num_images=num_images, encode=letters).ids == [IMAGE_ID] * EACH


def test_tags_without_an_encoder_are_refused():
    with pytest.raises(ValueError, match="position_tags index are text; give encode"):
        layout((64, 16), TAGGED)


def test_tags_in_a_prompt_are_the_tokenizers_and_count_the_pictures(processor_of):
    processor = processor_of(TAGGED)
    inputs = processor("Is <image> beside <image>?", [noise(64, 16), noise(32, 32)])
    encode = processor.tokenizer.encode
    for number, (found, cells) in enumerate(
        zip(stretches(inputs), [["1,1", "1,2", "1,3", "1,4"], ["1,1", "1,2", "2,1", "2,2"]], strict=True)
    ):
        expected = []
        for cell in [*cells, "0,0"]:
            expected += encode(f"({number},{cell})", add_special_tokens=False) + [IMAGE_ID] * EACH
        assert found == expected
    assert inputs.num_visual_tokens == 10 * EACH


def test_tags_count_with_their_picture_where_a_prompt_is_too_long(processor_of):
    tagged, untagged = (processor_of(with_context(c, 2048))("Hm", [noise(64, 16)]) for c in (TAGGED, DYNAMIC))
    tag_tokens = len(tagged.input_ids) - len(untagged.input_ids)
    assert tag_tokens > 0
    text = len(untagged.input_ids) - 5 * EACH
    with pytest.raises(PromptError) as error:
        processor_of(with_context(TAGGED, 40))("Hm", [noise(64, 16)])
    assert f"text {text}; picture 1: {5 * EACH + tag_tokens} (64 x 16 pixels, 5 views)" in str(error.value)


# Other settings for the same model


def test_a_processor_with_other_settings_shares_the_rest(mm1_tiny):
    processor = Processor(mm1_tiny[1].tokenizer, SMALL, max_pixels=5000)
    changed = processor.with_image_config(sub_images="static", image_size=32)
    assert changed.tokenizer is processor.tokenizer
    assert changed.max_pixels == 5000
    assert changed.config == with_rule(sub_images="static", image_size=32)
    assert processor.config is SMALL


def test_other_settings_make_other_views(processor_of):
    processor = processor_of(SMALL).with_image_config(sub_images="static", image_size=32)
    inputs = processor("What is it?", [noise(40, 30)])
    assert inputs.pixel_values.shape == (5, 32, 32, 3)
    assert inputs.num_visual_tokens == 5 * EACH


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (PAIR, {"sub_images": "static"}, "image_config.sub_images must be quadrants"),
        (PAIR, {"sub_images": "none"}, "image_config.sub_images must be quadrants"),
        (
            SMART,
            {"sub_images": "dynamic", "max_sub_images": 9},
            "resize smart goes with sub_images none only",
        ),
        (SMART, {"resize": "squash"}, "merge_size needs image_config.resize smart"),
        (SMART, {"image_size": 32}, "image_size does nothing with resize smart"),
        (SMALL, {"sub_images": "anyres", "unpad": True}, "unpad needs connector_config.row_end"),
        (EXTRA, {"sub_images": "anyres"}, "leave num_extra_tokens no place"),
        (SMALL, {"image_size": 3}, "image_config.image_size is 3, smaller than one patch of 4"),
        (SMALL, {"sub_images": "dynamic"}, "sub_images dynamic needs max_sub_images above 1"),
        (DYNAMIC, {"max_sub_images": 3}, "min_sub_images is 4, more than max_sub_images 3"),
        (SMALL, {"max_subimages": 9}, "Did you mean max_sub_images"),
    ],
)
def test_settings_that_the_model_cannot_follow_are_refused(processor_of, config, changes, message):
    with pytest.raises(ConfigError, match=message):
        processor_of(config).with_image_config(**changes)


def positions_of(pixels):
    """A small model whose positions, in encoder and connector, are for views of so many pixels."""
    side = pixels // 4
    return replace(
        SMALL,
        vision_config=replace(SMALL.vision_config, image_size=pixels),
        connector_config=replace(SMALL.connector_config, position_grid=side),
    )


def resized_by_hand(table, target):
    side = int(len(table) ** 0.5)
    weights = np.array(bicubic_weights(side, target))
    grid = np.einsum("ai,bj,ijd->abd", weights, weights, np.array(table).reshape(side, side, -1))
    return mx.array(grid.reshape(target**2, -1), dtype=mx.float32)


def test_larger_views_make_as_many_visual_tokens_with_interpolated_positions(processor_of):
    model, larger = MM1(positions_of(28)), MM1(positions_of(56))
    processor = processor_of(model.config).with_image_config(image_size=56)
    pixels = processor("What is it?", [noise(70, 60)]).pixel_values
    larger.update(model.parameters())
    for part in (larger.image_encoder, larger.connector):
        part.position_embedding = resized_by_hand(part.position_embedding, 56 // 4)
    visual_tokens = model.encode_images(pixels)
    assert pixels.shape == (1, 56, 56, 3)
    assert visual_tokens.shape[1] == EACH == processor.num_visual_tokens(70, 60)
    np.testing.assert_allclose(visual_tokens, larger.encode_images(pixels), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_configuration_of_every_rule_survives_its_json(name):
    assert MM1Config.from_dict(ALL[name].to_dict()) == ALL[name]
