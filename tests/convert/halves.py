"""The halves of new models: decoders of mlx-lm's, tiny and random, and golden image encoders in every public layout."""

import atexit
import functools
import json
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from golden_weights import GOLDEN, rename_weights
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes
from stand_in import write_tokenizer

from convert.image_encoders import clip_config, open_clip_keys, transformers_keys
from convert.source_config import read_json

VISION = GOLDEN / "vision"
CLIP, SIGLIP = VISION / "clip_gelu", VISION / "siglip_vision_only"
OPEN_CLIP = "open_clip_config.json"

SIZES = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 1000.0,
}
DECODERS = {
    "llama": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    "gemma3_text": {"num_hidden_layers": 6, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral, its experts apart": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}
PROJECTIONS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


_ROOM = tempfile.TemporaryDirectory(prefix="mm1-halves-")
atexit.register(_ROOM.cleanup)


@functools.cache
def make_decoder(kind):
    """Make a folder with a decoder of this kind, once; tests must not change it."""
    return write_decoder(Path(_ROOM.name) / kind, kind)


def write_decoder(folder, kind, **values):
    """Write a decoder as mlx-lm stores it, or, with its experts apart, as transformers does."""
    values = SIZES | {"model_type": kind} | DECODERS[kind] | values
    model_class, args_class = _get_classes(values)
    model = model_class(args_class.from_dict(values))
    shapes = {name: value.shape for name, value in dict(tree_flatten(model.parameters())).items()}
    if kind == "gemma3_text":  # tied, as it loses a head that is not stored
        del shapes["lm_head.weight"]
    keys = mx.random.split(mx.random.key(0), len(shapes))
    weights = {
        name: 0.2 * mx.random.normal(shape, key=key) + (len(shape) == 1)
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }
    if kind.endswith("apart"):
        weights = split_experts(weights)
    return store(write_tokenizer(folder), weights, values)


def store(folder, weights, values, file="model.safetensors", config="config.json"):
    """Write weights and configuration into a folder, the weights as a pickle where ``file`` is one."""
    folder.mkdir(exist_ok=True)
    if file.endswith(".bin"):
        import torch

        torch.save({key: torch.tensor(np.array(value)) for key, value in weights.items()}, folder / file)
    else:
        mx.save_safetensors(str(folder / file), weights)
    (folder / config).write_text(json.dumps(values))
    return folder


def split_experts(weights):
    """Split Mixtral's weights as transformers stores them: a matrix for each expert."""
    apart = {}
    for name, value in weights.items():
        before, stacked, after = name.partition("switch_mlp.")
        if stacked:
            projection = PROJECTIONS[after.removesuffix(".weight")]
            apart |= {f"{before}experts.{n}.{projection}.weight": matrix for n, matrix in enumerate(value)}
        else:
            apart[name] = value
    return apart


def add_text_encoder(vision):
    """Return a CLIPModel's tensors: the image encoder's, a text encoder's and both projections."""
    shapes = {
        "logit_scale": (),
        "text_model.embeddings.position_ids": (1, 12),
        "text_model.embeddings.token_embedding.weight": (64, 24),
        "text_model.encoder.layers.0.mlp.fc1.weight": (96, 24),
        "text_model.final_layer_norm.bias": (24,),
        "text_projection.weight": (16, 24),
        "visual_projection.weight": (16, 32),
    }
    return vision | {name: mx.zeros(shape) for name, shape in shapes.items()}


def to_open_clip(vision, folder):
    """Return the weights of an image encoder under open_clip's names."""
    config = clip_config(read_json(folder / "config.json"))
    ours = dict(rename_weights(vision, transformers_keys(config).add_prefixes("vision_model.", "")))
    moves = open_clip_keys(config).moves.items()
    return {f"visual.{k}": move.transform.back(tuple(ours[t] for t in move.targets)) for k, move in moves}


def write_encoder(folder, name, layout, file):
    """Write a golden image encoder in one of its public layouts."""
    source = VISION / name
    vision = mx.load(str(source / "model.safetensors"))
    if layout == "alone":
        return store(folder, vision, read_json(source / "config.json").values, file)
    if layout == "hf":
        return store(folder, add_text_encoder(vision), read_json(CLIP / "hf" / "config.json").values, file)
    place = source / "open_clip"
    if (place / "open_clip_model.safetensors").exists():
        weights = mx.load(str(place / "open_clip_model.safetensors"))
    else:
        weights = to_open_clip(vision, source)
    return store(folder, weights, read_json(place / OPEN_CLIP).values, file, OPEN_CLIP)


def edit(folder, config="config.json", **keys):
    """Change keys of a configuration; None removes one."""
    path = folder / config
    values = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder
