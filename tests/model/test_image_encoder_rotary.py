import json
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from golden_weights import GOLDEN, load_golden, rename_weights

from convert.image_encoders import qwen2_vl_keys
from mm1_mlx.config import ImageEncoderConfig
from mm1_mlx.errors import ConfigError
from mm1_mlx.model.image_encoder import ImageEncoder, flatten_blocks
from mm1_mlx.model.rotary_2d import grid_angles

VALUES = json.loads((GOLDEN / "kanana_vision" / "config.json").read_text())
CONFIG = ImageEncoderConfig(
    image_size=56,
    patch_size=VALUES["patch_size"],
    hidden_dims=VALUES["embed_dim"],
    feed_forward_dims=VALUES["mlp_ratio"] * VALUES["embed_dim"],
    num_layers=VALUES["depth"],
    num_heads=VALUES["num_heads"],
    activation=VALUES["hidden_act"],
    norm_eps=1e-6,
    class_token=False,
    pre_norm=False,
    final_norm=False,
    patch_bias=False,
    positions="rotary",
    temporal_patch_size=VALUES["temporal_patch_size"],
    patch_block=VALUES["spatial_merge_size"],
)
IO, WEIGHTS = (
    {key: value.astype(mx.float32) for key, value in load_golden("kanana_vision", name).items()}
    for name in ("io.safetensors", "model.safetensors")
)
KEYS = qwen2_vl_keys(CONFIG).add_prefixes("vision_model.", "")


def golden_encoder(**changes):
    encoder = ImageEncoder(replace(CONFIG, **changes))
    encoder.load_weights(rename_weights(WEIGHTS, KEYS), strict=True)
    return encoder


def assert_close(ours, theirs, tolerance=1e-4):
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=tolerance)


@pytest.mark.parametrize("picture", [0, 1])
def test_every_hidden_state_equals_the_reference(picture):
    encoder, pixels = golden_encoder(), IO[f"pixels_{picture}"]
    x, rotation = encoder.embed(pixels), encoder.rotation(pixels)
    assert_close(x, IO[f"hidden_0_{picture}"])
    for i, layer in enumerate(encoder.layers):
        x = layer(x, rotation)
        assert_close(x, IO[f"hidden_{i + 1}_{picture}"])
    assert_close(encoder(pixels), IO[f"hidden_3_{picture}"])


def test_blocks_go_row_by_row_over_the_grid_and_inside():
    grid = mx.arange(2 * 6).reshape(1, 2, 6, 1).astype(mx.float32)
    assert flatten_blocks(grid, 2).flatten().tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    assert flatten_blocks(grid, 1).flatten().tolist() == list(range(12))


def test_blocks_change_the_order_of_the_features_only():
    pixels = IO["pixels_0"]
    rows = mx.unflatten(golden_encoder(patch_block=1)(pixels), 1, (4, 6))
    assert_close(flatten_blocks(rows, 2), golden_encoder()(pixels), 1e-5)


def test_angles_follow_the_row_then_the_column():
    angles = grid_angles(3, 5, 8)
    assert angles.shape == (3, 5, 4)
    assert_close(angles[2, 4], [2, 2 / 100, 4, 4 / 100], 1e-6)


def test_pictures_in_a_batch_do_not_see_each_other():
    encoder = golden_encoder()
    first, second = IO["pixels_0"], IO["pixels_0"][:, ::-1]
    together = encoder(mx.concatenate([first, second]))
    assert_close(together, mx.concatenate([encoder(first), encoder(second)]), 1e-5)


def test_features_feel_where_a_patch_is():
    pixels = IO["pixels_0"]
    moved = mx.roll(pixels, 28, axis=2)  # by one block
    features, of_moved = golden_encoder()(pixels), golden_encoder()(moved)
    assert float(mx.abs(features[:, :4] - of_moved[:, 4:8]).max()) > 0.01


def test_what_is_left_of_a_last_whole_block_is_cropped():
    encoder, pixels = golden_encoder(), IO["pixels_0"]
    larger = mx.pad(pixels, [(0, 0), (0, 13), (0, 27), (0, 0)], constant_values=9.0)
    assert encoder.grid(larger) == (4, 6)
    assert_close(encoder(larger), encoder(pixels), 0)


def test_a_rotary_encoder_has_no_learned_positions_and_no_norm_at_the_end():
    encoder = ImageEncoder(CONFIG)
    assert set(encoder.parameters()) == {"patch_embedding", "layers"}


def test_features_have_the_type_of_the_norms_even_where_layers_are_quantized():
    encoder = ImageEncoder(replace(CONFIG, patch_size=16))
    encoder.set_dtype(mx.float16)
    nn.quantize(encoder, group_size=32, bits=8)
    assert encoder(mx.ones((1, 32, 64, 3))).dtype == mx.float16


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_dims": 24}, "hidden_dims / num_heads is 6, rotary positions need a multiple of 4"),
        ({"class_token": True, "final_norm": True}, "class_token, final_norm must be false with rotary"),
        ({"pre_norm": True}, "pre_norm must be false with rotary"),
        ({"positions": "learned"}, "patch_block is 2, expected 1: learned positions go row by row"),
        ({"patch_block": 0}, "patch_block is 0, expected more than 0"),
        ({"temporal_patch_size": 0}, "temporal_patch_size is 0, expected more than 0"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)
