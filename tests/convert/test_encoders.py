"""Image encoders as transformers 5 and AIMv2's publisher write them: patch features equal transformers' own."""

import json

import mlx.core as mx
import numpy as np
import pytest
from halves import make_decoder
from safetensors.numpy import load_file, save_file
from stand_in import needs_torch

import mm1_mlx
from convert.conversion import convert
from convert.recipe import Options
from mm1_mlx.errors import CheckpointError

pytestmark = needs_torch

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


def make_encoder(name, folder, **changes):
    """Save a random vision model of transformers' and return its features for two pictures, with the pictures."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}VisionConfig")(**SIZES | changes)
    model = getattr(transformers, f"{name}VisionModel")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
        pixels = torch.randn(2, 3, 56, 56)
        features = model(pixels, output_hidden_states=True)
    model.save_pretrained(folder)
    return pixels.numpy().transpose(0, 2, 3, 1), features


def assemble(encoder, output, **options):
    options = {"num_visual_tokens": 4} | options
    convert(
        None, output, options=Options(encoder=str(encoder), decoder=str(make_decoder("llama")), **options)
    )
    model, _ = mm1_mlx.load(output)
    return model


def differs(model, pixels, expected):
    """Return how far patch features are from those expected, as a share of the largest."""
    found = np.array(model.image_encoder(mx.array(pixels)))
    return abs(found - expected).max() / abs(expected).max()


@pytest.mark.parametrize("name", ["CLIP", "Siglip", "Aimv2"])
def test_a_vision_model_saved_alone_gives_transformers_features(name, tmp_path):
    pixels, features = make_encoder(name, tmp_path / "encoder")
    names = load_file(tmp_path / "encoder/model.safetensors")
    assert not any(key.startswith("vision_model.") for key in names)
    expected = features.last_hidden_state[:, 1 if name == "CLIP" else 0 :].numpy()
    assert differs(assemble(tmp_path / "encoder", tmp_path / "new"), pixels, expected) < 1e-5


def test_an_inner_layer_of_aimv2_is_taken_before_its_last_norm(tmp_path):
    pixels, features = make_encoder("Aimv2", tmp_path / "encoder")
    model = assemble(tmp_path / "encoder", tmp_path / "new", feature_layer=-2)
    assert differs(model, pixels, features.hidden_states[-2].numpy()) < 1e-5


def test_aimv2_with_biases_and_without_its_pooling_head(tmp_path):
    pixels, features = make_encoder(
        "Aimv2", tmp_path / "encoder", qkv_bias=True, mlp_bias=True, use_head=False
    )
    model = assemble(tmp_path / "encoder", tmp_path / "new")
    assert differs(model, pixels, features.last_hidden_state.numpy()) < 1e-5


def test_aimv2_with_its_text_half(tmp_path):
    import torch
    import transformers

    torch.manual_seed(1)
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Aimv2Config(
        text_config=text | {"vocab_size": 64}, vision_config=SIZES, projection_dim=8
    )
    whole = transformers.Aimv2Model(config).eval()
    whole.save_pretrained(tmp_path / "encoder")
    pixels = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        expected = whole.vision_model(pixels).last_hidden_state.numpy()
    model = assemble(tmp_path / "encoder", tmp_path / "new")
    assert differs(model, pixels.numpy().transpose(0, 2, 3, 1), expected) < 1e-5


def to_publisher_names(arrays):
    """Return transformers' tensors of AIMv2 under the names, and in the layouts, of Apple's files."""
    renamed = {}
    for key, value in arrays.items():
        for theirs, ours in (
            ("embeddings.patch_embed", "preprocessor.patchifier.proj"),
            ("embeddings.rms_norm", "preprocessor.patchifier.norm"),
            ("encoder.layers", "trunk.blocks"),
            ("attention.out_proj", "attn.proj"),
            ("ffn.gate_proj", "mlp.fc1"),
            ("ffn.down_proj", "mlp.fc2"),
            ("ffn.up_proj", "mlp.fc3"),
            ("rms_norm1", "norm_1"),
            ("rms_norm2", "norm_2"),
        ):
            key = key.replace(theirs, ours)
        renamed[key] = value
    renamed["trunk.post_trunk_norm.weight"] = renamed.pop("rms_norm.weight")
    renamed["preprocessor.pos_embed"] = renamed.pop("embeddings.position_embedding.weight")[None]
    for layer in range(SIZES["num_hidden_layers"]):
        parts = [renamed.pop(f"trunk.blocks.{layer}.attention.{x}_proj.weight") for x in "qkv"]
        renamed[f"trunk.blocks.{layer}.attn.qkv.weight"] = np.concatenate(parts)
    return {key: value for key, value in renamed.items() if not key.startswith("head.")}


def test_aimv2_as_its_publisher_names_it(tmp_path):
    pixels, features = make_encoder("Aimv2", tmp_path / "encoder")
    weights = tmp_path / "encoder/model.safetensors"
    save_file(to_publisher_names(load_file(weights)), weights)
    values = SIZES | {"model_type": "aimv2", "rms_norm_eps": 1e-5, "qkv_bias": False, "use_bias": False}
    (tmp_path / "encoder/config.json").write_text(json.dumps(values))
    model = assemble(tmp_path / "encoder", tmp_path / "new")
    assert differs(model, pixels, features.last_hidden_state.numpy()) < 1e-5


def test_aimv2_for_pictures_of_any_size_is_refused_by_name(tmp_path):
    make_encoder("Aimv2", tmp_path / "encoder", is_native=True)
    with pytest.raises(CheckpointError, match="takes pictures of any size"):
        assemble(tmp_path / "encoder", tmp_path / "new")
