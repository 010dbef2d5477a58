import json
from dataclasses import replace

import mlx.core as mx
import pytest
from golden_weights import GOLDEN
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_models import SMART

from mm1_mlx.config import PromptConfig
from mm1_mlx.errors import PictureError
from mm1_mlx.inputs.layout import layout
from mm1_mlx.inputs.preprocess import smart_resize_size
from mm1_mlx.inputs.sub_images import best_canvas
from mm1_mlx.presets import MM1_TINY

IMAGE = MM1_TINY.image_token_id
ROW = 5  # the text token between rows of visual tokens


def anyres(size, most, num_visual_tokens, *, unpad):
    """A model that cuts pictures into at most ``most`` sub-images of ``size`` pixels."""
    connector = replace(MM1_TINY.connector_config, num_visual_tokens=num_visual_tokens, row_end=unpad)
    image = replace(
        MM1_TINY.image_config, image_size=size, sub_images="anyres", max_sub_images=most, unpad=unpad
    )
    return replace(MM1_TINY, connector_config=connector, image_config=image)


def smart(merge_size, min_pixels, max_pixels, row_token=ROW):
    """A model whose pictures keep their sides, of patches of 14 pixels, merged to squares."""
    encoder = replace(SMART.vision_config, image_size=56, patch_size=14, patch_block=merge_size)
    connector = replace(
        SMART.connector_config, merge_size=merge_size, output_dims=MM1_TINY.text_config.hidden_dims
    )
    image = replace(
        MM1_TINY.image_config,
        resize="smart",
        size_multiple=14 * merge_size,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    return replace(
        MM1_TINY,
        vision_config=encoder,
        connector_config=connector,
        image_config=image,
        prompt_config=PromptConfig(row_token_id=row_token),
    )


def published():
    """Each case of the published rule: its name, folder, tiling and picture."""
    for path in sorted((GOLDEN / "anyres").glob("*/tiling.json")):
        tiling = json.loads(path.read_text())
        for case in tiling["cases"]:
            name = f"{path.parent.name}-{case['width']}x{case['height']}"
            yield name, path.parent.name, tiling, case


PUBLISHED = list(published())
ORDERS = {path.parent.name: mx.load(str(path)) for path in (GOLDEN / "anyres").glob("*/order.safetensors")}


def published_layout(tiling, case, *, unpad):
    config = anyres(tiling["grid_size"], tiling["max_num_grids"], tiling["num_queries"], unpad=unpad)
    return layout((case["width"], case["height"]), config)


def test_unpadded_visual_tokens_stand_in_the_published_order(subtests):
    for name, folder, tiling, case in PUBLISHED:
        with subtests.test(msg=name):
            expected = ORDERS[folder][f"order_unpad_{case['width']}x{case['height']}"]
            assert published_layout(tiling, case, unpad=True).order == expected.tolist()


FLAT = [
    (name, folder, tiling, case)
    for name, folder, tiling, case in PUBLISHED
    if f"order_flat_{case['width']}x{case['height']}" in ORDERS[folder]
]


def test_padded_visual_tokens_stand_in_the_published_order(subtests):
    for name, folder, tiling, case in FLAT:
        with subtests.test(msg=name):
            expected = ORDERS[folder][f"order_flat_{case['width']}x{case['height']}"]
            assert published_layout(tiling, case, unpad=False).order == expected.tolist()


def test_every_published_order_is_tested():
    assert len(FLAT) + len(PUBLISHED) == sum(map(len, ORDERS.values())) == 41


def test_a_picture_costs_the_published_number_of_tokens(subtests):
    for name, _, tiling, case in PUBLISHED:
        for unpad, key in ((True, "tokens_unpad"), (False, "tokens_no_unpad")):
            with subtests.test(msg=f"{name}, {key}"):
                assert published_layout(tiling, case, unpad=unpad).ids == [IMAGE] * case[key]


def test_every_view_makes_all_its_visual_tokens(subtests):
    for name, _, tiling, case in PUBLISHED:
        for unpad in (True, False):
            with subtests.test(msg=f"{name}, {'unpad' if unpad else 'flat'}"):
                made = published_layout(tiling, case, unpad=unpad).num_made
                assert made == case["num_views"] * tiling["num_queries"]


SIDES = st.integers(1, 3000)
SIZES = st.tuples(SIDES, SIDES)
SQUARES = st.sampled_from([1, 4, 9, 16, 81, 144])
CUTS = st.tuples(st.sampled_from([14, 56, 378]), st.integers(1, 9), SQUARES)
THREAD = (1, 20_000)
EVEN = (378, 9, 144)  # twelve tokens a side: with 1 x 20000 pixels all columns of the map only pad


def whatever_the_picture(test):
    """Run with sizes of pictures and ways to cut them, the thinnest included."""
    test = given(SIZES, CUTS, st.booleans())(test)
    for size, unpad in ((THREAD, True), (THREAD[::-1], True), (THREAD, False)):
        test = example(size, EVEN, unpad)(test)
    return settings(derandomize=True)(test)


@whatever_the_picture
def test_no_visual_token_stands_twice(size, cut, unpad):
    found = layout(size, anyres(*cut, unpad=unpad))
    numbers = [number for number in found.order if number >= 0]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < found.num_made


@whatever_the_picture
def test_the_tokens_of_the_whole_picture_come_first(size, cut, unpad):
    whole, order = cut[2], layout(size, anyres(*cut, unpad=unpad)).order
    assert order[:whole] == list(range(whole))
    assert all(number < 0 or number >= whole for number in order[whole:])


@whatever_the_picture
def test_every_place_in_the_order_has_an_image_token(size, cut, unpad):
    found = layout(size, anyres(*cut, unpad=unpad))
    assert found.ids == [IMAGE] * len(found.order)


@whatever_the_picture
def test_rows_end_only_where_padding_is_dropped_and_are_equally_long(size, cut, unpad):
    order = layout(size, anyres(*cut, unpad=unpad)).order[cut[2] :]
    ends = [place for place, number in enumerate(order) if number == -1]
    lengths = {end - before for before, end in zip([-1, *ends], ends, strict=False)}
    assert len(lengths) <= 1 if unpad else not ends
    assert not ends or order[-1] == -1


@example(THREAD, EVEN)
@given(SIZES, CUTS)
def test_with_the_padding_every_visual_token_stands_once(size, cut):
    found = layout(size, anyres(*cut, unpad=False))
    assert sorted(found.order) == list(range(found.num_made))


@example(THREAD, EVEN)
@given(SIZES, CUTS)
def test_without_the_padding_rows_are_at_most_those_of_the_canvas(size, cut):
    config = anyres(*cut, unpad=True)
    rows = best_canvas(size, config.image_config)[1] // config.image_config.image_size
    assert layout(size, config).order.count(-1) <= rows * config.connector_config.side


def test_a_picture_of_one_view_has_its_visual_tokens_as_they_come():
    found = layout((300, 20), MM1_TINY)
    assert (found.ids, found.num_made, found.order) == ([IMAGE] * 16, 16, None)


def test_extra_tokens_have_places_too():
    config = replace(MM1_TINY, connector_config=replace(MM1_TINY.connector_config, num_extra_tokens=2))
    found = layout((300, 20), config)
    assert (found.ids, found.num_made) == ([IMAGE] * 18, 18)


@pytest.mark.parametrize(("kind", "made"), [("c_abstractor", 5 * 16), ("c_abstractor_pair", 2 * 16)])
def test_quadrants_make_the_tokens_of_five_views_or_of_a_pair(kind, made):
    config = replace(
        MM1_TINY,
        connector_config=replace(MM1_TINY.connector_config, type=kind),
        image_config=replace(MM1_TINY.image_config, sub_images="quadrants"),
    )
    found = layout((300, 20), config)
    assert (found.ids, found.num_made, found.order) == ([IMAGE] * made, made, None)


SMART_SIZES = SIZES.filter(lambda size: max(size) <= 200 * min(size))
MERGES = st.sampled_from([2, 3, 4])
LIMITS = st.sampled_from([(1, 3136), (3136, 3136), (3136, 250_880)])


def resized(size, config):
    image = config.image_config
    limits = {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels}
    return smart_resize_size(*size, multiple=image.size_multiple, **limits)


@given(SMART_SIZES, MERGES, LIMITS)
def test_a_row_token_stands_before_each_row_of_visual_tokens(size, merge_size, limits):
    config = smart(merge_size, *limits)
    columns, rows = (side // 14 // merge_size for side in resized(size, config))
    assert layout(size, config).ids == ([ROW] + [IMAGE] * columns) * rows


@given(SMART_SIZES, MERGES, LIMITS)
def test_every_merged_square_of_patches_is_a_visual_token(size, merge_size, limits):
    config = smart(merge_size, *limits)
    width, height = resized(size, config)
    found = layout(size, config)
    assert found.num_made == found.ids.count(IMAGE) == width * height // (14 * merge_size) ** 2


def test_without_a_row_token_rows_follow_one_another():
    found = layout((84, 56), smart(2, 784, 250_880, row_token=None))
    assert (found.ids, found.num_made, found.order) == ([IMAGE] * 6, 6, None)


def test_a_thread_of_a_picture_is_refused_where_sides_are_kept():
    with pytest.raises(PictureError, match="1 x 20000 pixels: one side is more than 200 times the other"):
        layout(THREAD, smart(2, 784, 250_880))
