"""Golden files and their weights under our names. PyTorch's convolutions are (out, in, rows, columns)."""

import re
from pathlib import Path

import mlx.core as mx

GOLDEN = Path(__file__).parent / "golden"


def golden(*parts):
    """The arrays of one golden safetensors file."""
    return mx.load(str(GOLDEN.joinpath(*parts)))


def nhwc(x):
    return x.transpose(0, 2, 3, 1)


def connector_weights(weights, *, drop_class_position):
    """Honeybee's C-Abstractor to ours."""
    renamed = {}
    for key, value in weights.items():
        if key == "pos_emb":
            renamed["position_embedding"] = value[0, 1:] if drop_class_position else value[0]
            continue
        if key == "eos_tokens":
            renamed["extra_tokens"] = value[0]
            continue
        key = key.replace("prenorm.", "pre_norm.")
        stage = re.match(r"net\.(\d)\.b(\d+)\.(.*)", key)
        if stage:
            side = {"0": "before", "2": "after"}[stage[1]]
            rest = re.sub(r"conv(\d)\.conv\.", r"conv\1.", stage[3])
            rest = re.sub(r"conv(\d)\.bn\.", r"norm\1.", rest)
            rest = rest.replace("downsample.conv.", "shortcut.").replace("downsample.bn.", "shortcut_norm.")
            rest = rest.replace("se.", "squeeze_excite.")
            key = f"{side}.{int(stage[2]) - 1}.{rest}"
            if value.ndim == 4:
                value = value.transpose(0, 2, 3, 1)
                if not key.endswith("conv2.weight"):
                    value = value.reshape(value.shape[0], -1)
        key = re.sub(r"readout\.(\d)\.", lambda m: f"readout.{int(m[1]) // 2}.", key)
        renamed[key] = value
    return renamed


def image_encoder_weights(weights, *, class_token):
    """transformers' CLIP and SigLIP vision models to ours; the pooling head is left out."""
    renamed = {}
    for key, value in weights.items():
        key = key.removeprefix("vision_model.")
        if key.startswith("head.") or key.endswith("position_ids"):
            continue
        if key == "embeddings.position_embedding.weight":
            if class_token:
                renamed["class_position"], value = value[0], value[1:]
            renamed["position_embedding"] = value
            continue
        key = key.replace("embeddings.class_embedding", "class_embedding")
        key = key.replace("embeddings.patch_embedding", "patch_embedding")
        key = key.replace("pre_layrnorm", "pre_norm").replace("post_layernorm", "post_norm")
        key = (
            key.replace("encoder.layers", "layers")
            .replace("self_attn", "attention")
            .replace("mlp", "feed_forward")
        )
        key = re.sub(r"layer_norm(\d)", r"norm\1", key)
        if key == "patch_embedding.weight":
            value = value.transpose(0, 2, 3, 1).reshape(value.shape[0], -1)
        renamed[key] = value
    return renamed
