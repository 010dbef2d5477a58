import json
import math

import numpy as np
import pytest
from golden_weights import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mm1_mlx.config import ImageConfig
from mm1_mlx.inputs.preprocess import fit_within, pad_color
from mm1_mlx.inputs.sub_images import best_canvas, views

SIZE = 28
HALF = (0.5, 0.5, 0.5)


def config_of(sub_images, max_sub_images=1, size=SIZE, **options):
    return ImageConfig(
        image_size=size, mean=HALF, std=HALF, sub_images=sub_images, max_sub_images=max_sub_images, **options
    )


def plain_picture(width, height, color=(200, 30, 60)):
    return Image.new("RGB", (width, height), color)


def tilings():
    """Each case of the published rule: (name, grid size, most grids, case)."""
    for path in sorted((GOLDEN / "anyres").glob("*/tiling.json")):
        tiling = json.loads(path.read_text())
        size, max_sub_images = tiling["grid_size"], tiling["max_num_grids"]
        for case in tiling["cases"]:
            name = f"{path.parent.name}-{case['width']}x{case['height']}"
            yield name, size, max_sub_images, case


TILINGS = list(tilings())


def test_the_canvas_is_the_published_one(subtests):
    for name, size, max_sub_images, case in TILINGS:
        with subtests.test(msg=name):
            canvas = best_canvas((case["width"], case["height"]), config_of("anyres", max_sub_images, size))
            assert canvas == tuple(reversed(case["canvas_hw"]))
            assert canvas == (case["cols"] * size, case["rows"] * size)


def test_the_picture_is_resized_as_published(subtests):
    for name, size, _, case in TILINGS:
        with subtests.test(msg=name):
            picture = plain_picture(case["width"], case["height"])
            canvas = tuple(reversed(case["canvas_hw"]))
            assert fit_within(picture, canvas).size == tuple(reversed(case["resized_hw"]))
            assert fit_within(picture, (size, size)).size == tuple(reversed(case["thumbnail_resized_hw"]))


def paste_corner(canvas, background):
    """(top, left) of what is not background."""
    rows, columns = np.nonzero((canvas != background).any(-1))
    return [rows.min(), columns.min()]


def test_views_are_the_whole_picture_and_the_published_crops(subtests):
    for name, size, max_sub_images, case in TILINGS:
        with subtests.test(msg=name):
            config = config_of("anyres", max_sub_images, size)
            picture = plain_picture(case["width"], case["height"])
            whole, *crops = [np.asarray(view) for view in views(picture, config)]
            assert 1 + len(crops) == case["num_views"]
            canvas = np.zeros((*case["canvas_hw"], 3), np.uint8)
            for crop, (left, top, right, bottom) in zip(crops, case["grid_boxes_xyxy"], strict=True):
                canvas[top:bottom, left:right] = crop
            assert paste_corner(canvas, pad_color(config)) == case["paste_top_left"]
            assert paste_corner(whole, pad_color(config)) == case["thumbnail_paste_top_left"]


SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 60)) | st.tuples(
    st.integers(1, 60), st.integers(1, 3000)
)
MAX_SUB_IMAGES = st.integers(1, 12)


@given(picture_size=SIZES, size=st.integers(1, 400), max_sub_images=MAX_SUB_IMAGES)
def test_a_canvas_is_whole_squares_and_no_more_of_them_than_allowed(picture_size, size, max_sub_images):
    width, height = best_canvas(picture_size, config_of("anyres", max_sub_images, size))
    assert width % size == height % size == 0
    assert 1 <= (width // size) * (height // size) <= max_sub_images


@given(picture_size=SIZES, size=st.integers(1, 400), max_sub_images=MAX_SUB_IMAGES)
def test_a_turned_picture_gets_a_canvas_with_as_many_squares(picture_size, size, max_sub_images):
    config = config_of("anyres", max_sub_images, size)
    turned = best_canvas(picture_size[::-1], config)
    assert math.prod(best_canvas(picture_size, config)) == math.prod(turned)


@given(picture_size=SIZES, canvas_size=st.tuples(st.integers(1, 400), st.integers(1, 400)))
def test_a_fitted_picture_fills_one_side_and_is_within_the_other(picture_size, canvas_size):
    width, height = fit_within(plain_picture(*picture_size), canvas_size).size
    assert 1 <= width <= canvas_size[0]
    assert 1 <= height <= canvas_size[1]
    assert width == canvas_size[0] or height == canvas_size[1]


@settings(max_examples=60)
@given(picture_size=SIZES, max_sub_images=MAX_SUB_IMAGES)
def test_anyres_views_are_rgb_squares_one_more_than_the_squares_of_the_canvas(picture_size, max_sub_images):
    config = config_of("anyres", max_sub_images)
    squares = views(plain_picture(*picture_size), config)
    columns, rows = (side // SIZE for side in best_canvas(picture_size, config))
    assert [(s.mode, s.size) for s in squares] == [("RGB", (SIZE, SIZE))] * (1 + rows * columns)


@settings(max_examples=20)
@given(picture_size=SIZES)
def test_quadrants_are_five_rgb_squares(picture_size):
    squares = views(plain_picture(*picture_size), config_of("quadrants"))
    assert [(s.mode, s.size) for s in squares] == [("RGB", (SIZE, SIZE))] * 5


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@settings(max_examples=20)
@given(picture_size=SIZES)
def test_without_sub_images_there_is_one_rgb_square(resize, picture_size):
    squares = views(plain_picture(*picture_size), config_of("none", resize=resize))
    assert [(s.mode, s.size) for s in squares] == [("RGB", (SIZE, SIZE))]


def blocks(rows, columns):
    """A picture of ``SIZE`` pixel blocks, each of its own colour, and those colours row by row."""
    colors = [(20 * i, 250 - 20 * i, 100) for i in range(rows * columns)]
    picture = Image.new("RGB", (columns * SIZE, rows * SIZE))
    for i, color in enumerate(colors):
        picture.paste(
            color,
            (i % columns * SIZE, i // columns * SIZE, (i % columns + 1) * SIZE, (i // columns + 1) * SIZE),
        )
    return picture, colors


def middle(square):
    return square.getpixel((SIZE // 2, SIZE // 2))


def test_anyres_crops_come_after_the_whole_row_by_row():
    picture, colors = blocks(2, 3)
    _, *crops = views(picture, config_of("anyres", 6))
    assert [middle(crop) for crop in crops] == colors


def test_quadrants_come_before_the_whole_row_by_row():
    picture, colors = blocks(2, 2)
    *crops, _ = views(picture, config_of("quadrants"))
    assert [middle(crop) for crop in crops] == colors


@pytest.mark.parametrize(("sub_images", "place"), [("anyres", 0), ("quadrants", -1)])
def test_the_whole_picture_is_one_of_the_views(sub_images, place):
    picture, colors = blocks(2, 2)
    whole = views(picture, config_of(sub_images, 4))[place]
    quarters = [(x, y) for y in (SIZE // 4, 3 * SIZE // 4) for x in (SIZE // 4, 3 * SIZE // 4)]
    assert [whole.getpixel(quarter) for quarter in quarters] == colors


@pytest.mark.parametrize(
    ("size", "canvas"), [((100, 100), (56, 28)), ((20, 90), (28, 84)), ((9, 9), (56, 28))]
)
def test_canvases_of_the_configuration_are_the_only_ones(size, canvas):
    config = config_of("anyres", 4, canvases=((1, 2), (3, 1)))
    assert best_canvas(size, config) == canvas


def test_crops_are_those_of_the_configurations_canvas():
    assert len(views(plain_picture(100, 100), config_of("anyres", 4, canvases=((1, 2),)))) == 1 + 2


def test_a_small_picture_is_not_cut():
    assert len(views(plain_picture(SIZE, SIZE), config_of("anyres", 9))) == 2
