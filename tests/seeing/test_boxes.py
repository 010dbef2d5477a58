"""Boxes against the views themselves: pictures whose colours say where a pixel came from."""

from dataclasses import replace
from itertools import product

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_models import ANYRES, PAIR, SMALL, SMART

from mm1_mlx.inputs.layout import layout
from mm1_mlx.inputs.preprocess import pad_color
from mm1_mlx.inputs.sub_images import view_indices, views
from mm1_mlx.model.connector import merge_squares
from mm1_mlx.model.image_encoder import flatten_blocks
from mm1_mlx.seeing.boxes import block_order, find_sight, view_boxes

SIZE = 32  # pixels of a view: enough for an inside
MARGIN = 4  # pixels, of the picture's and of the view's, that an edge may blur


def with_rule(config=SMALL, **changes):
    return replace(config, image_config=config.image_config.changed(**changes))


RULES = {
    "squash": {},
    "crop": {"resize": "crop"},
    "pad": {"resize": "pad"},
    "static": {"sub_images": "static"},
    "static crop": {"sub_images": "static", "resize": "crop"},
    "static pad": {"sub_images": "static", "resize": "pad"},
    "dynamic": {"sub_images": "dynamic", "max_sub_images": 6},
    "dynamic pad": {"sub_images": "dynamic", "max_sub_images": 6, "resize": "pad", "min_sub_images": 4},
    "quadrants": {"sub_images": "quadrants"},
    "anyres": {"sub_images": "anyres", "max_sub_images": 6},
    "smart": {"resize": "smart", "size_multiple": 8, "min_pixels": 1024, "max_pixels": 4096},
}
CONFIGS = {
    name: with_rule(
        replace(SMART, prompt_config=SMALL.prompt_config) if name == "smart" else SMALL,
        **({} if name == "smart" else {"image_size": SIZE}),
        **changes,
    )
    for name, changes in RULES.items()
}


def ramp(width, height):
    """Red says how far from the left, green how far from the top, from 0 to 255."""
    red = np.broadcast_to(255 * (np.arange(width) + 0.5) / width, (height, width))
    green = np.broadcast_to(255 * (np.arange(height)[:, None] + 0.5) / height, (height, width))
    return Image.fromarray(np.rint(np.stack([red, green, 0 * red], -1)).astype(np.uint8))


def origins(view, axis):
    """Where the view's pixels come from along an axis, and the picture's pixels to each of them."""
    start, stop = view.box[axis], view.box[axis + 2]
    step = (stop - start) / view.size[axis]
    return start + step * (np.arange(view.size[axis]) + 0.5), step


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=30)
@given(st.integers(1, 160), st.integers(1, 160))
@example(1, 1)
@example(7, 160)
@example(160, 12)
@example(99, 100)
def test_a_box_is_where_the_views_pixels_come_from(name, width, height):
    config = CONFIGS[name]
    found = view_boxes((width, height), config)
    real = views(ramp(width, height), config.image_config)
    assert [view.size for view in found] == [view.size for view in real]
    for view, pixels in zip(found, real, strict=True):
        pixels = np.asarray(pixels).astype(float)
        inside, outside = [], []
        for axis, length in enumerate((width, height)):
            places, step = origins(view, axis)
            edge = MARGIN * max(step, 1)
            inside.append((places > edge) & (places < length - edge))
            outside.append((places < -edge / 2) | (places > length + edge / 2))
            expected = 255 * places / length
            here = pixels[..., 0].T if axis == 0 else pixels[..., 1]
            across = MARGIN * max(origins(view, 1 - axis)[1], 1)
            other = origins(view, 1 - axis)[0]
            clear = (other > across) & (other < (height if axis == 0 else width) - across)
            difference = np.abs(here - expected[:, None])[np.ix_(inside[axis], clear)]
            assert difference.max(initial=0) < 2.5
        padding = outside[1][:, None] | outside[0]
        assert np.abs(pixels[padding] - pad_color(config.image_config)).max(initial=0) <= 1


def test_views_are_those_of_the_rule_and_cover_the_picture_or_its_middle(subtests):
    for name, size in product(RULES, [(1, 1), (100, 100), (20, 900), (301, 50)]):
        with subtests.test(msg=f"{name}, {size}"):
            config = CONFIGS[name]
            found = view_boxes(size, config)
            assert [view.place for view in found] == view_indices(size, config.image_config)
            lefts, tops, rights, bottoms = np.transpose([view.box for view in found])
            if "crop" not in name:
                assert lefts.min() <= 0 and tops.min() <= 0
                assert rights.max() >= size[0] - 1e-9 and bottoms.max() >= size[1] - 1e-9
            else:
                assert lefts.min() >= -1e-9 and rights.max() <= size[0] + 1e-9


# Visual tokens

POOL = replace(SMALL, connector_config=replace(SMALL.connector_config, type="average_pool"))
EXTRA = replace(SMALL, connector_config=replace(SMALL.connector_config, num_extra_tokens=2))
TAGGED = with_rule(sub_images="dynamic", max_sub_images=6, position_tags="index")
MODELS = {**CONFIGS, "anyres unpad": ANYRES, "rows": SMART, "pair": PAIR, "pool": POOL, "extra": EXTRA}


def test_every_visual_token_is_there_once_and_in_one_view(subtests):
    for name, size in product(MODELS, [(1, 1), (90, 40), (30, 200)]):
        with subtests.test(msg=f"{name}, {size}"):
            config = MODELS[name]
            seen = find_sight(size, config)
            found = layout(size, config)
            assert len(seen.tokens) == found.ids.count(config.image_token_id)
            assert seen.num_text == len(found.ids) - len(seen.tokens)
            numbers = [token.number for token in seen.tokens if token is not None]
            assert len(set(numbers)) == len(numbers) and max(numbers) < found.num_made
            ends = sum(token is None for token in seen.tokens)
            assert sum(seen.tokens_of(view) for view in range(len(seen.views))) == len(seen.tokens) - ends
            if found.order is None:
                assert numbers == list(range(found.num_made))


def test_position_tags_are_counted_as_text():
    seen = find_sight((90, 40), TAGGED, encode=lambda text: [1] * len(text))
    assert seen.num_text == len("(0,1,2)") * len(seen.views)


def test_learned_tokens_have_no_place():
    tokens = find_sight((90, 40), EXTRA).tokens
    assert [bool(token.boxes) for token in tokens] == [True] * 4 + [False] * 2


def test_a_views_tokens_cover_its_whole_patches_row_by_row():
    config = with_rule(image_size=18)  # patches of 4 pixels: the last 2 pixels are not seen
    tokens = find_sight((180, 90), config).tokens
    assert [token.boxes for token in tokens[:2]] == [((0, 0, 80, 40),), ((80, 0, 160, 40),)]
    assert [(token.row, token.column) for token in tokens] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_the_joined_quadrants_share_their_grid_of_tokens():
    seen = find_sight((40, 40), PAIR)
    assert [seen.tokens_of(view) for view in range(5)] == [1, 1, 1, 1, 4]
    assert [token.boxes for token in seen.tokens[:4]] == [token.boxes for token in seen.tokens[4:]]
    assert [seen.views[token.view].box for token in seen.tokens[:4]] == [
        token.boxes[0] for token in seen.tokens[:4]
    ]


@pytest.mark.parametrize("block", [1, 2])
def test_patches_come_in_the_order_of_the_image_encoder(block):
    grid = mx.arange(24).reshape(1, 4, 6, 1).astype(mx.float32)
    assert block_order(4, 6, block) == flatten_blocks(grid, block).flatten().tolist()


def test_a_merged_token_stands_for_the_patches_that_the_connector_merges():
    seen = find_sight((48, 32), SMART)
    (view,) = seen.views
    grid = mx.arange(view.patch_grid[0] * view.patch_grid[1]).reshape(1, *view.patch_grid, 1)
    sequence = flatten_blocks(grid.astype(mx.float32), SMART.vision_config.patch_block)
    merged = merge_squares(mx.unflatten(sequence, 1, view.patch_grid), 2).reshape(-1, 4)
    boxes = view.patch_boxes()
    for token, patches in zip(seen.tokens, merged.tolist(), strict=True):
        assert set(token.boxes) == {boxes[int(patch)] for patch in patches}


def test_tokens_that_only_pad_are_left_out_of_anyres_without_padding():
    seen = find_sight((90, 20), ANYRES)
    crops = [token for token in seen.tokens if token is not None and token.view > 0]
    assert crops and None in seen.tokens
    for token in crops:
        _, top, _, bottom = token.boxes[0]
        assert bottom > 0 and top < 20
