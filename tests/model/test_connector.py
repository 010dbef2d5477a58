import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import GOLDEN, load_golden, rename_weights, to_nhwc
from mlx.utils import tree_flatten

from convert.c_abstractor import connector_keys
from mm1_mlx.config import ConnectorConfig
from mm1_mlx.model.connector import (
    CAbstractorPair,
    DepthwiseConv,
    adaptive_average_pool,
    make_connector,
    merge_squares,
)
from mm1_mlx.model.resample import resize_positions

FIXTURES = sorted(p.name for p in (GOLDEN / "cabstractor").iterdir() if p.is_dir())
SLOW_FAST = ("cabstractor_variants", "hcx_27to9_slowfast")
ANY_GRID = ("cabstractor_variants", "kanana_dynamic")
TOLERANCE = 5e-5


def values_of(*folder):
    return json.loads(GOLDEN.joinpath(*folder, "config.json").read_text())


def golden_connector(folder, **options):
    """A published C-Abstractor with its weights, and what went through it."""
    values = values_of(*folder)
    config = ConnectorConfig(
        type="c_abstractor",
        input_dims=values["encoder_hidden_size"],
        hidden_dims=values["hidden_size"],
        output_dims=values["output_hidden_size"],
        num_blocks=values["depth"],
        num_readout_layers=values["mlp_depth"],
        **options,
    )
    weights = load_golden(*folder, "weights.safetensors")
    keys = connector_keys(config, {key: value.shape for key, value in weights.items()})
    connector = make_connector(config)
    connector.load_weights(rename_weights(weights, keys), strict=True)
    return connector, load_golden(*folder, "io.safetensors")


def honeybee(name):
    values = values_of("cabstractor", name)
    return golden_connector(
        ("cabstractor", name),
        num_visual_tokens=values["num_query_tokens"],
        position_grid=int(values["num_input_tokens"] ** 0.5) if values["pos_emb"] else None,
        pre_norm=values["prenorm"],
        num_extra_tokens=values["num_eos_tokens"],
    )


def slow_fast():
    """HyperCLOVAX's, whose views have different numbers of visual tokens."""
    values = values_of(*SLOW_FAST)
    number, side = values["num_queries_vis_abstractor_image"], int(values["num_input_tokens"] ** 0.5)
    return golden_connector(SLOW_FAST, num_visual_tokens=number, position_grid=side)


def any_grid():
    """Kanana's, which merges squares of patches of pictures of any size."""
    values = values_of(*ANY_GRID)
    return golden_connector(
        ANY_GRID,
        num_visual_tokens=None,
        position_grid=int(values["pos_emb_size"] ** 0.5),
        position_antialias=True,
        merge_size=values["merge_size"],
    )


def assert_close(ours, theirs, tolerance=TOLERANCE):
    ours = ours[: len(theirs)]  # of large stages only the first picture's are stored
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", FIXTURES)
def test_every_stage_of_the_c_abstractor_equals_honeybee(name):
    connector, io = honeybee(name)
    x = connector.embed(io["input"])
    assert_close(x, to_nhwc(io["after_pos_emb_nchw"]))
    for i, block in enumerate(connector.before):
        x = block(x)
        assert_close(x, to_nhwc(io[f"stage1_b{i + 1}_nchw"]))
    x = adaptive_average_pool(x, connector.config.side)
    assert_close(x, to_nhwc(io["after_pool_nchw"]))
    for i, block in enumerate(connector.after):
        x = block(x)
        assert_close(x, to_nhwc(io[f"stage2_b{i + 1}_nchw"]))
    assert_close(connector.read_out(x.flatten(1, 2)), io["after_readout"])
    assert_close(connector(io["input"]), io["output"])


def test_groups_of_views_with_their_own_number_of_tokens_equal_hyperclovax():
    connector, io = slow_fast()
    values = values_of(*SLOW_FAST)
    starts, numbers = values["num_grids"], values["num_queries_vis_abstractors"]
    groups = [(b - a, n) for a, b, n in zip(starts, starts[1:], numbers, strict=False)]
    assert groups == [(1, 81), (2, 9), (1, 81)]
    for i, tokens in enumerate(connector.encode_groups(io["input"], groups)):
        assert_close(tokens, io[f"video_output_{i}"])


def test_views_with_one_number_of_tokens_equal_hyperclovax():
    connector, io = slow_fast()
    assert_close(connector(io["input"]), io["image_output"])


def pictures_of(io):
    """Each picture's grid and patches; they stand one after the other."""
    grids = [(height, width) for _, height, width in io["grid_thw"].tolist()]
    ends = np.cumsum([height * width for height, width in grids])
    return zip(grids, mx.split(io["input"][None], ends[:-1].tolist(), axis=1), strict=True)


def test_merged_squares_of_grids_of_any_size_equal_kanana():
    connector, io = any_grid()
    tokens = [connector(patches, grid)[0] for grid, patches in pictures_of(io)]
    assert_close(mx.concatenate(tokens), io["output"])


def test_positions_on_grids_of_any_size_equal_kanana():
    connector, io = any_grid()
    for i, (grid, _) in enumerate(pictures_of(io)):
        positions = resize_positions(connector.position_embedding, *grid, antialias=True)
        assert_close(positions, io[f"pos_emb_resampled_{i}"][0])


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (8, 2)])
def test_a_merging_connector_makes_as_many_tokens_as_its_configuration_says(grid):
    connector, _ = any_grid()
    patches = mx.zeros((1, grid[0] * grid[1], connector.config.input_dims))
    assert connector(patches, grid).shape[1] == connector.config.num_tokens(*grid)


def test_a_merged_square_holds_its_channels_row_by_row():
    grid = mx.arange(16.0).reshape(1, 4, 4, 1)
    merged = merge_squares(mx.concatenate([grid, -grid], axis=-1), 2)
    squares = [[[0, 1, 4, 5], [2, 3, 6, 7]], [[8, 9, 12, 13], [10, 11, 14, 15]]]
    assert merged.tolist() == [[[square + [-place for place in square] for square in row] for row in squares]]


PAIR = ConnectorConfig(
    type="c_abstractor_pair",
    num_visual_tokens=4,
    input_dims=6,
    hidden_dims=8,
    output_dims=10,
    num_blocks=1,
    num_readout_layers=2,
    position_grid=3,
)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_joined_quadrants_have_every_patch_in_its_place(side):
    places = mx.arange(2 * (2 * side) ** 2).reshape(2, 2, side, 2, side, 1)  # N, half, row, half, column
    quadrants = places.transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, side * side, 1).astype(mx.float32)
    joined = CAbstractorPair.join_quadrants(quadrants)
    assert joined.flatten().tolist() == list(range(2 * (2 * side) ** 2))


def test_a_pair_is_the_detail_of_the_quadrants_then_the_overview_of_the_whole():
    pair = make_connector(PAIR)
    views = mx.random.normal((10, 9, 6), key=mx.random.key(3))  # two pictures
    for picture, tokens in zip((views[:5], views[5:]), pair(views), strict=True):
        detail = pair.detail(pair.join_quadrants(picture[None, :4]))[0]
        overview = pair.overview(picture[4:])[0]
        assert_close(tokens, mx.concatenate([detail, overview]), 1e-6)


def test_a_pair_makes_as_many_tokens_as_its_configuration_says():
    assert make_connector(PAIR)(mx.zeros((5, 9, 6))).shape == (1, PAIR.num_tokens(3, 3), 10)


def test_the_end_of_a_row_is_one_more_vector_and_changes_no_visual_token():
    connector, io = any_grid()
    grid, patches = next(pictures_of(io))
    with_end = make_connector(replace(connector.config, row_end=True))
    assert with_end.row_end.shape == (connector.config.output_dims,)
    with_end.load_weights([*tree_flatten(connector.parameters()), ("row_end", with_end.row_end)], strict=True)
    assert_close(with_end(patches, grid), connector(patches, grid), 0)


@pytest.mark.parametrize("kind", ["c_abstractor", "average_pool", "attention_pool"])
@pytest.mark.parametrize("num_visual_tokens", [64, 144])
def test_number_of_visual_tokens_does_not_depend_on_the_patch_grid(kind, num_visual_tokens):
    connector = make_connector(
        ConnectorConfig(
            type=kind,
            num_visual_tokens=num_visual_tokens,
            input_dims=8,
            hidden_dims=16,
            output_dims=12,
            num_blocks=1,
            num_heads=2,
            position_grid=27,
        )
    )
    for side in (9, 16, 27):
        assert connector(mx.zeros((2, side * side, 8))).shape == (2, num_visual_tokens, 12)


def test_average_pooling_is_the_mean_of_each_window_then_a_linear_layer():
    config = ConnectorConfig(type="average_pool", num_visual_tokens=4, input_dims=3, output_dims=5)
    connector = make_connector(config)
    patches = mx.random.normal((1, 16, 3), key=mx.random.key(0))
    grid = np.array(patches).reshape(2, 2, 2, 2, 3)  # window row, row, window column, column
    windows = grid.mean(axis=(1, 3)).reshape(4, 3)
    expected = windows @ np.array(connector.output_proj.weight).T + np.array(connector.output_proj.bias)
    np.testing.assert_allclose(np.array(connector(patches))[0], expected, atol=1e-5)


def test_attention_pooling_does_not_depend_on_the_order_of_the_patches():
    config = ConnectorConfig(
        type="attention_pool", num_visual_tokens=4, input_dims=6, hidden_dims=8, output_dims=5, num_heads=2
    )
    connector = make_connector(config)
    patches = mx.random.normal((1, 9, 6), key=mx.random.key(1))
    np.testing.assert_allclose(np.array(connector(patches)), np.array(connector(patches[:, ::-1])), atol=1e-5)


def test_both_ways_of_the_depthwise_convolution_agree():
    conv = DepthwiseConv(6)
    x = mx.random.normal((2, 5, 7, 6), key=mx.random.key(2))
    general = mx.conv2d(x, conv.weight, padding=1, groups=6)
    np.testing.assert_allclose(np.array(conv.convolve_by_shifts(x)), np.array(general), atol=1e-5)
