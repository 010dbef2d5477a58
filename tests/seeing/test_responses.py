"""Response maps against pooling windows, finite differences and the places of mm1-tiny's tokens."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from small_models import ANYRES, PAIR, SMALL, SMART

import mm1_mlx
from mm1_mlx import MM1
from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.sub_images import views
from mm1_mlx.model.connector import make_connector
from mm1_mlx.model.resample import average_weights
from mm1_mlx.seeing.boxes import find_sight
from mm1_mlx.seeing.responses import PROBES, choose_tokens, measure_responses, response_map

PICTURES = Path(mm1_mlx.__file__).parents[1] / "examples" / "pictures"
UNEVEN = replace(SMALL.connector_config, num_visual_tokens=9, num_blocks=0, num_readout_layers=1)


def noise(width, height):
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


def model_of(config):
    mx.random.seed(0)
    model = MM1(config)
    mx.eval(model.parameters())
    return model


def map_of(config, number, size=(40, 40), model=None):
    picture = noise(*size)
    seen, real = find_sight(picture.size, config), views(picture, config.image_config)
    return seen, response_map(model or model_of(config), real, seen, config.image_config, number)


@pytest.mark.parametrize("kind", ["c_abstractor", "average_pool"])
def test_without_convolutions_the_map_is_the_pooling_window(kind):
    connector = make_connector(replace(UNEVEN, type=kind, position_grid=None))
    patches, weights = mx.random.normal((1, 16, 32)), average_weights(4, 3)
    for number in range(9):
        row, column = divmod(number, 3)
        window = np.outer(weights[row], weights[column])
        (found,) = measure_responses(connector, patches, (4, 4), number).reshape(1, 4, 4)
        assert ((found > 0) == (window > 0)).all()
        np.testing.assert_allclose(found / found.max(), window / window.max(), rtol=1e-5)


def jacobian_norms(connector, patches, number, step=1e-3):
    """By central differences, one feature of one patch at a time."""
    offsets = step * mx.eye(patches.size).reshape(-1, *patches.shape[1:])
    higher, lower = (connector(patches + sign * offsets, (4, 4))[:, number] for sign in (1, -1))
    columns = np.array(higher - lower) / (2 * step)
    return np.sqrt((columns**2).sum(axis=1).reshape(patches.shape[1:]).sum(axis=1))


def test_of_few_dimensions_the_norm_is_exact():
    mx.random.seed(1)
    connector = make_connector(replace(SMALL.connector_config, input_dims=6, output_dims=PROBES))
    patches = mx.random.normal((1, 16, 6))
    (found,) = measure_responses(connector, patches, (4, 4), 2)
    np.testing.assert_allclose(found, jacobian_norms(connector, patches, 2), rtol=0.02)


def test_of_many_dimensions_the_norm_is_estimated():
    mx.random.seed(1)
    connector = make_connector(replace(SMALL.connector_config, input_dims=6, output_dims=256))
    patches = mx.random.normal((1, 16, 6))
    (found,) = measure_responses(connector, patches, (4, 4), 2)
    np.testing.assert_allclose(found, jacobian_norms(connector, patches, 2), rtol=0.5)
    np.testing.assert_array_equal(found, measure_responses(connector, patches, (4, 4), 2)[0])


def center(values):
    total = sum(value for _, value in values)
    return [sum((box[axis] + box[axis + 2]) / 2 * value for box, value in values) / total for axis in (0, 1)]


def test_tokens_of_mm1_tiny_respond_to_their_own_surroundings(mm1_tiny):
    model, processor = mm1_tiny
    picture = Image.open(PICTURES / "shapes.png").convert("RGB")
    config = processor.config
    seen, real = find_sight(picture.size, config), views(picture, config.image_config)
    for number in (1, 4, 6, 11, 13, 16):
        token = seen.tokens[number - 1]
        values = response_map(model, real, seen, config.image_config, number)
        ((left, top, right, bottom),) = token.boxes
        x, y = center(values)
        assert abs(x - (left + right) / 2) < 32 and abs(y - (top + bottom) / 2) < 32  # pixels: one token
        (a, b, c, d), _ = max(values, key=lambda pair: pair[1])
        assert a < right + 14 and c > left - 14 and b < bottom + 14 and d > top - 14  # beside it: one patch


def test_details_come_from_the_quadrants_and_the_overview_from_the_whole():
    seen, detail = map_of(PAIR, 1)
    _, overview = map_of(PAIR, len(seen.tokens))
    of_quadrants, of_whole = (slice(0, 4 * 16), slice(4 * 16, None))
    for values, moved, unmoved in ((detail, of_quadrants, of_whole), (overview, of_whole, of_quadrants)):
        assert min(value for _, value in values[moved]) > 0
        assert max(value for _, value in values[unmoved]) == 0


def test_a_later_views_token_responds_in_its_own_view():
    seen, values = map_of(ANYRES, 6, size=(60, 20))
    token = seen.tokens[5]
    assert token.view > 0
    assert [box for box, _ in values] == seen.views[token.view].patch_boxes()


def test_a_token_of_patches_in_blocks_responds_most_where_they_are():
    model, number = model_of(SMART), 3
    model.connector.before = []  # the squares alone
    seen, values = map_of(SMART, number, size=(48, 32), model=model)
    most = sorted(values, key=lambda pair: -pair[1])[:4]
    assert {box for box, _ in most} == set(seen.tokens[number - 1].boxes)


@pytest.mark.parametrize("number", [0, 5, -1])
def test_a_number_out_of_range_says_how_many_there_are(number):
    with pytest.raises(PromptError, match=f"`token` is {number}, but the picture has 4 visual tokens"):
        map_of(SMALL, number)


def test_learned_tokens_are_refused():
    extra = replace(SMALL, connector_config=replace(SMALL.connector_config, num_extra_tokens=1))
    with pytest.raises(PromptError, match="visual token 5 is learned"):
        map_of(extra, 5)
    seen = find_sight((90, 20), ANYRES)
    with pytest.raises(PromptError, match="is learned"):
        map_of(ANYRES, seen.tokens.index(None) + 1, size=(90, 20))


def test_attention_pooling_has_a_map_too():
    pool = replace(SMALL.connector_config, type="attention_pool", position_grid=None)
    seen, values = map_of(replace(SMALL, connector_config=pool), 4)
    assert not seen.tokens[3].boxes and min(value for _, value in values) > 0


def test_a_sheet_has_the_first_views_tokens_or_evenly_some_of_them():
    static = replace(SMALL, image_config=SMALL.image_config.changed(sub_images="static"))
    assert choose_tokens(find_sight((9, 9), static)) == [1, 2, 3, 4]
    large = replace(SMALL, connector_config=replace(SMALL.connector_config, num_visual_tokens=144))
    numbers = choose_tokens(find_sight((9, 9), large))
    assert len(numbers) == 36 and numbers[0] == 1 and numbers[-1] == 144
    tokens = [find_sight((9, 9), large).tokens[number - 1] for number in numbers]
    assert len({token.row for token in tokens}) == len({token.column for token in tokens}) == 6
    pool = replace(large, connector_config=replace(large.connector_config, type="attention_pool"))
    assert len(choose_tokens(find_sight((9, 9), pool))) == 36
