import json

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import GOLDEN, connector_weights, golden, nhwc

from mm1_mlx.config import ConnectorConfig
from mm1_mlx.model.connector import DepthwiseConv, adaptive_average_pool, make_connector

FIXTURES = sorted(p.name for p in (GOLDEN / "cabstractor").iterdir() if p.is_dir())
TOLERANCE = 5e-5


def golden_connector(name):
    values = json.loads((GOLDEN / "cabstractor" / name / "config.json").read_text())
    side = int(values["num_input_tokens"] ** 0.5)
    connector = make_connector(
        ConnectorConfig(
            type="c_abstractor",
            num_visual_tokens=values["num_query_tokens"],
            input_dims=values["encoder_hidden_size"],
            hidden_dims=values["hidden_size"],
            output_dims=values["output_hidden_size"],
            num_blocks=values["depth"],
            num_readout_layers=values["mlp_depth"],
            position_grid=side if values["pos_emb"] else None,
            pre_norm=values["prenorm"],
            num_extra_tokens=values["num_eos_tokens"],
        )
    )
    weights = golden("cabstractor", name, "weights.safetensors")
    weights = connector_weights(weights, drop_class_position=values["pos_emb_has_cls_slot"])
    connector.load_weights(list(weights.items()), strict=True)
    return connector, golden("cabstractor", name, "io.safetensors")


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", FIXTURES)
def test_every_stage_of_the_c_abstractor_equals_honeybee(name):
    connector, io = golden_connector(name)
    x = connector.embed(io["input"])
    assert_close(x, nhwc(io["after_pos_emb_nchw"]))
    for i, block in enumerate(connector.before):
        x = block(x)
        assert_close(x, nhwc(io[f"stage1_b{i + 1}_nchw"]))
    x = adaptive_average_pool(x, connector.config.side)
    assert_close(x, nhwc(io["after_pool_nchw"]))
    for i, block in enumerate(connector.after):
        x = block(x)
        assert_close(x, nhwc(io[f"stage2_b{i + 1}_nchw"]))
    assert_close(connector.read_out(x.flatten(1, 2)), io["after_readout"])
    assert_close(connector(io["input"]), io["output"])


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
    np.testing.assert_allclose(np.array(conv.shifted(x)), np.array(general), atol=1e-5)
