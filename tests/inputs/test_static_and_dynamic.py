"""MM1's static sub-images and MM1.5's dynamic splitting: grids, crops and their order."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mm1_mlx.config import ImageConfig
from mm1_mlx.inputs.preprocess import fit_within, paste_centered, to_square
from mm1_mlx.inputs.sub_images import OVERVIEW, dynamic_grid, view_indices, views

SIZE = 10
HALF = (0.5, 0.5, 0.5)


def config_of(sub_images, least=1, most=1, size=SIZE, **options):
    if sub_images == "dynamic":
        options |= {"min_sub_images": least, "max_sub_images": most}
    return ImageConfig(image_size=size, mean=HALF, std=HALF, sub_images=sub_images, **options)


def positions(width, height):
    """A picture whose colours tell each pixel's column and row."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.full_like(x, 255)], -1).astype(np.uint8))


def joined(crops, rows, columns):
    """Crops, row by row, put together."""
    grid = np.stack([np.asarray(crop) for crop in crops]).reshape(rows, columns, SIZE, SIZE, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * SIZE, columns * SIZE, 3)


# The grid: sides are (width, height), grids (rows, columns)


@pytest.mark.parametrize(
    ("picture_size", "limits", "grid"),
    [
        ((10, 10), (1, 9), (1, 1)),  # (2, 2) and (3, 3) pad nothing either: fewer crops
        ((10, 10), (4, 9), (2, 2)),
        ((4, 3), (1, 2), (1, 1)),
        ((25, 10), (4, 9), (1, 4)),  # padding 150; (2, 4) scales by 1.6: 160; (2, 3) by 1.2: 240
        ((25, 10), (1, 3), (1, 3)),
        ((5, 40), (1, 9), (8, 1)),  # twice as large, no padding; (4, 1) would pad 200
        ((5, 40), (1, 7), (7, 1)),  # padding 87.5
        ((5, 40), (1, 4), (4, 1)),
        ((30, 20), (1, 9), (2, 3)),
        ((20, 30), (1, 9), (3, 2)),
        ((50, 400), (1, 9), (8, 1)),  # shrunk to a fifth, as by (9, 1): fewer crops
        ((400, 50), (1, 9), (1, 8)),
        ((100, 100), (4, 9), (3, 3)),
        ((100, 100), (2, 3), (1, 2)),  # (2, 1) and three crops shrink as much: fewer crops, then fewer rows
        ((20_000, 50), (4, 9), (1, 9)),
        ((50, 20_000), (4, 9), (9, 1)),
        ((1, 1), (4, 9), (2, 2)),
    ],
)
def test_the_grid_is_the_one_found_by_hand(picture_size, limits, grid):
    assert dynamic_grid(picture_size, config_of("dynamic", *limits)) == grid


def test_the_largest_pictures_of_mm1_5_are_read_without_loss():
    config = config_of("dynamic", 4, 9, size=672)
    assert dynamic_grid((2016, 2016), config) == (3, 3)
    assert dynamic_grid((6048, 672), config) == (1, 9)


ANY_SIDE = st.integers(1, 20_000)
ANY_SIZE = st.tuples(ANY_SIDE, ANY_SIDE)
LIMITS = st.tuples(st.integers(1, 9), st.integers(2, 16)).filter(lambda limits: limits[0] <= limits[1])


def scale_of(grid, picture_size, size):
    rows, columns = grid
    return min(Fraction(columns * size, picture_size[0]), Fraction(rows * size, picture_size[1]))


def padding_of(grid, picture_size, size):
    shown = picture_size[0] * picture_size[1] * scale_of(grid, picture_size, size) ** 2
    return grid[0] * grid[1] * size**2 - shown


@example((1, 1), (1, 9), 672)
@example((20_000, 50), (4, 9), 672)
@given(ANY_SIZE, LIMITS, st.sampled_from([SIZE, 378, 672]))
def test_no_other_grid_suits_the_picture_better(picture_size, limits, size):
    chosen = dynamic_grid(picture_size, config_of("dynamic", *limits, size=size))
    least, most = limits
    grids = [(r, c) for r in range(1, most + 1) for c in range(1, most + 1) if least <= r * c <= most]
    assert chosen in grids
    covering = [grid for grid in grids if scale_of(grid, picture_size, size) >= 1]
    if covering:
        assert chosen in covering
        paddings = [padding_of(grid, picture_size, size) for grid in covering]
        assert padding_of(chosen, picture_size, size) == min(paddings)
    else:
        scales = [scale_of(grid, picture_size, size) for grid in grids]
        assert scale_of(chosen, picture_size, size) == max(scales)


@given(ANY_SIZE, LIMITS)
def test_a_turned_picture_gets_as_many_crops(picture_size, limits):
    config = config_of("dynamic", *limits)
    turned = dynamic_grid(picture_size[::-1], config)
    assert np.prod(dynamic_grid(picture_size, config)) == np.prod(turned)


# The views

SMALL_SIZE = st.tuples(st.integers(1, 120), st.integers(1, 120)) | st.sampled_from([(900, 2), (3, 700)])


def rule_configs():
    for resize in ("squash", "crop", "pad"):
        yield config_of("none", resize=resize)
        yield config_of("static", resize=resize)
        yield config_of("quadrants", resize=resize)
        yield config_of("dynamic", 1, 9, resize=resize)
    yield config_of("dynamic", 4, 16)
    yield config_of("anyres", max_sub_images=9)


@pytest.mark.parametrize("num_images", [1, 2, 3])
@pytest.mark.parametrize("config", list(rule_configs()), ids=lambda c: f"{c.sub_images}-{c.resize}")
@settings(max_examples=20)
@given(picture_size=SMALL_SIZE)
def test_every_view_is_a_square_with_an_index(config, num_images, picture_size):
    squares = views(positions(*picture_size), config, num_images=num_images)
    indices = view_indices(picture_size, config, num_images=num_images)
    assert [square.size for square in squares] == [(SIZE, SIZE)] * len(indices)
    assert len(set(indices)) == len(indices)


def test_static_views_are_the_whole_and_four_crops_row_by_row():
    picture = positions(2 * SIZE, 2 * SIZE)
    config = config_of("static")
    whole, *crops = views(picture, config)
    assert view_indices(picture.size, config) == [OVERVIEW, (1, 1), (1, 2), (2, 1), (2, 2)]
    assert whole == picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(joined(crops, 2, 2), np.asarray(picture))


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@settings(max_examples=20)
@given(picture_size=SMALL_SIZE)
def test_static_crops_are_the_square_of_twice_the_size(resize, picture_size):
    config, picture = config_of("static", resize=resize), positions(*picture_size)
    whole, *crops = views(picture, config)
    large = to_square(picture, 2 * SIZE, config)
    np.testing.assert_array_equal(joined(crops, 2, 2), np.asarray(large))
    assert whole == large.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


@settings(max_examples=60)
@example((900, 2), (4, 9))
@given(picture_size=SMALL_SIZE, limits=LIMITS)
def test_dynamic_crops_hold_every_pixel_of_the_resized_picture(picture_size, limits):
    config, picture = config_of("dynamic", *limits), positions(*picture_size)
    rows, columns = dynamic_grid(picture_size, config)
    crops = views(picture, config)[: rows * columns]
    canvas = (columns * SIZE, rows * SIZE)
    resized = fit_within(picture, canvas)
    shown = joined(crops, rows, columns)
    np.testing.assert_array_equal(shown, np.asarray(paste_centered(resized, canvas, config)))
    left, top = (canvas[0] - resized.width) // 2, (canvas[1] - resized.height) // 2
    inside = shown[top : top + resized.height, left : left + resized.width]
    np.testing.assert_array_equal(inside, np.asarray(resized))


def test_a_picture_that_fits_a_grid_exactly_is_cut_as_it_is():
    picture = positions(3 * SIZE, 2 * SIZE)
    *crops, whole = views(picture, config_of("dynamic", 1, 9))
    np.testing.assert_array_equal(joined(crops, 2, 3), np.asarray(picture))
    assert whole == picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


@given(picture_size=SMALL_SIZE, limits=LIMITS)
def test_dynamic_splitting_keeps_the_aspect(picture_size, limits):
    config = config_of("dynamic", *limits)
    grid = dynamic_grid(picture_size, config)
    scale = scale_of(grid, picture_size, SIZE)
    resized = fit_within(positions(*picture_size), (grid[1] * SIZE, grid[0] * SIZE)).size
    assert all(
        abs(side * scale - found) <= 1 for side, found in zip(picture_size, resized, strict=True)
    )  # whole pixels


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_the_overview_comes_last_and_goes_by_the_resize_rule(resize):
    picture, config = positions(50, 20), config_of("dynamic", 1, 9, resize=resize)
    assert view_indices(picture.size, config)[-1] == OVERVIEW
    assert views(picture, config)[-1] == to_square(picture, SIZE, config)


def test_a_picture_of_one_crop_has_no_overview():
    picture, config = positions(8, 6), config_of("dynamic", 1, 9)
    (crop,) = views(picture, config)
    assert view_indices(picture.size, config) == [(1, 1)]
    assert crop == paste_centered(fit_within(picture, (SIZE, SIZE)), (SIZE, SIZE), config)


def test_three_pictures_in_a_prompt_are_not_split():
    picture, config = positions(40, 20), config_of("dynamic", 4, 9)
    assert len(views(picture, config, num_images=2)) == 2 * 4 + 1
    assert views(picture, config, num_images=3) == [to_square(picture, SIZE, config)]
    assert view_indices(picture.size, config, num_images=3) == [OVERVIEW]


@pytest.mark.parametrize("sub_images", ["static", "quadrants", "anyres"])
def test_other_rules_cut_any_number_of_pictures(sub_images):
    picture, config = positions(50, 20), config_of(sub_images, max_sub_images=9)
    assert views(picture, config, num_images=30) == views(picture, config)
