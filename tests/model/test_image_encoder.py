import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import GOLDEN, load_golden, rename_weights, to_nhwc

from convert.image_encoders import transformers_keys
from mm1_mlx.config import ImageEncoderConfig
from mm1_mlx.model.image_encoder import ImageEncoder
from mm1_mlx.presets import IMAGE_ENCODERS

FIXTURES = {"clip_gelu": 1e-4, "clip_quickgelu": 1e-4, "siglip_vision_only": 5e-5}
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def golden_encoder(name, **changes):
    values = json.loads((GOLDEN / "vision" / name / "config.json").read_text())
    clip = name.startswith("clip")
    config = ImageEncoderConfig(
        image_size=values["image_size"],
        patch_size=values["patch_size"],
        hidden_dims=values["hidden_size"],
        feed_forward_dims=values["intermediate_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        activation=ACTIVATIONS[values["hidden_act"]],
        norm_eps=values["layer_norm_eps"],
        class_token=clip,
        pre_norm=clip,
        final_norm=not clip,
        patch_bias=not clip,
    )
    encoder = ImageEncoder(replace(config, **changes))
    keys = transformers_keys(config).add_prefixes("vision_model.", "")
    encoder.load_weights(rename_weights(load_golden("vision", name, "model.safetensors"), keys), strict=True)
    io = load_golden("vision", name, "io.safetensors")
    return encoder, to_nhwc(io["pixel_values"]), io


@pytest.mark.parametrize("name", FIXTURES)
def test_every_hidden_state_equals_the_reference(name):
    encoder, pixels, io = golden_encoder(name)
    tolerance = FIXTURES[name]

    def assert_close(ours, theirs):
        np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=tolerance)

    patches = encoder.patch_embedding(encoder.patches(pixels))
    assert_close(patches, to_nhwc(io["patch_conv_nchw"]).flatten(1, 2))
    x = encoder.embed(pixels)
    assert_close(x, io["hidden_0"])
    for i, layer in enumerate(encoder.layers):
        x = layer(x)
        assert_close(x, io[f"hidden_{i + 1}"])
    if encoder.config.final_norm:
        assert_close(encoder(pixels), io["last_hidden_state"])
    else:
        assert_close(encoder(pixels), io["last_hidden_state"][:, 1:])
        assert_close(encoder.post_norm(x), io["post_layernorm_all_tokens"])


def test_features_of_any_layer_come_without_the_class_token():
    for layer, state in ((-2, 3), (2, 2), (0, 0), (-5, 0)):
        encoder, pixels, io = golden_encoder("clip_quickgelu", feature_layer=layer)
        expected = np.array(io[f"hidden_{state}"])[:, 1:]
        np.testing.assert_allclose(np.array(encoder(pixels)), expected, rtol=0, atol=1e-4)


def test_final_norm_is_the_post_norm_of_the_patch_features():
    encoder, pixels, io = golden_encoder("clip_gelu", final_norm=True)
    expected = np.array(io["post_layernorm_all_tokens"])[:, 1:]
    np.testing.assert_allclose(np.array(encoder(pixels)), expected, rtol=0, atol=1e-4)


def test_a_larger_picture_interpolates_the_positions():
    encoder, _, _ = golden_encoder("clip_gelu")
    features = encoder(mx.zeros((1, 98, 112, 3)))
    assert features.shape == (1, 7 * 8, 32)


def test_positions_interpolate_from_378_to_672_pixels():
    config = replace(IMAGE_ENCODERS["vit-h-14-378"], hidden_dims=32, feed_forward_dims=32, num_layers=1)
    assert ImageEncoder(config)(mx.zeros((1, 672, 672, 3))).shape == (1, 48 * 48, 32)
