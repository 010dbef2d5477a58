"""Convert public image encoders: transformers' CLIP, SigLIP and AIMv2, open_clip's CLIP, and Qwen2-VL's ViT.

For each there are the sizes, from its own configuration, and the key table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mm1_mlx.config import Activation, ImageEncoderConfig
from mm1_mlx.errors import CheckpointError

from .key_table import (
    BATCH_OF_ONE,
    SAME,
    KeyTable,
    Move,
    flatten_patches,
    keep_layer,
    split_rows,
    split_thirds,
)
from .source_config import SourceConfig

INNER = "vision_model."  # before the names of a vision model's tensors, except where transformers 5 saved it alone
# What a whole CLIP or SigLIP holds besides its image encoder; the decoder takes the place of that.
TEXT_HALF = (
    "text_model.*",
    "logit_scale",
    "logit_bias",
    "text_projection.weight",
    "visual_projection.weight",
)

ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
}


def _activation(config: SourceConfig, default: str) -> Activation:
    name = config.get("hidden_act", str, default)
    if name not in ACTIVATIONS:
        raise CheckpointError(
            f"{config.where}: hidden_act is {name!r}, expected one of {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


def _transformers_sizes(config: SourceConfig, patch_size: int | None = None) -> dict[str, Any]:
    """Return the sizes that transformers' vision encoders all state; ``patch_size`` is used where none is stated."""
    return {
        "image_size": config.need("image_size", int),
        "patch_size": config.get("patch_size", int, patch_size)
        if patch_size
        else config.need("patch_size", int),
        "hidden_dims": config.need("hidden_size", int),
        "feed_forward_dims": config.need("intermediate_size", int),
        "num_layers": config.need("num_hidden_layers", int),
        "num_heads": config.need("num_attention_heads", int),
    }


def find_prefix(names: Iterable[str], outer: str = "") -> str:
    """Return what stands before the names of a vision model's tensors inside ``outer``."""
    own = [name for name in names if name.startswith(outer)]
    alone = bool(own) and not any(name.startswith(outer + INNER) for name in own)
    return outer if alone else outer + INNER


def note_text_half(names: Iterable[str]) -> tuple[str, ...]:
    """Say that the text half of an image encoder is left out, where there is one."""
    if any(name.startswith("text_model.") for name in names):
        return (
            f"The image encoder's text half ({', '.join(TEXT_HALF)}) is left out: the decoder reads text.",
        )
    return ()


def clip_config(
    config: SourceConfig, *, feature_layer: int = -1, patch_size: int | None = None
) -> ImageEncoderConfig:
    """Return the sizes of transformers' CLIP vision encoder.

    ``patch_size``, from its tensors, is used where the file states none.
    """
    return ImageEncoderConfig(
        **_transformers_sizes(config, patch_size),
        activation=_activation(config, "quick_gelu"),  # transformers' default
        norm_eps=config.get("layer_norm_eps", float, 1e-5),
        class_token=True,
        pre_norm=True,
        patch_bias=False,
        final_norm=False,
        feature_layer=feature_layer,
    )


def clip_values(config: ImageEncoderConfig) -> dict[str, Any]:
    """Return transformers' names and values of a CLIP's sizes, for the conversion back."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return {
        "model_type": "clip_vision_model",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.hidden_dims,
        "intermediate_size": config.feed_forward_dims,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": names[config.activation],
        "layer_norm_eps": config.norm_eps,
    }


def siglip_config(
    config: SourceConfig, *, feature_layer: int = -1, final_norm: bool = True
) -> ImageEncoderConfig:
    """Return the sizes of transformers' SigLIP vision encoder, whose last hidden state is normalised, unlike CLIP's."""
    return ImageEncoderConfig(
        **_transformers_sizes(config),
        activation=_activation(config, "gelu_pytorch_tanh"),
        norm_eps=config.get("layer_norm_eps", float, 1e-6),
        class_token=False,
        pre_norm=False,
        patch_bias=True,
        final_norm=final_norm,
        feature_layer=feature_layer,
    )


def aimv2_config(config: SourceConfig, *, feature_layer: int = -1) -> ImageEncoderConfig:
    """Return the sizes of AIMv2's vision encoder, in transformers' words or in those of its publisher's files.

    Raises:
        CheckpointError: the encoder takes pictures of any size ("native"), or its linear maps differ in their biases.
    """
    native = config.get("is_native", bool, False) or config.get("pos_embed_type", str, "") == "sincos"
    if native:
        raise CheckpointError(
            f"{config.where}: this AIMv2 takes pictures of any size, which is not known here; give one for a fixed size, "
            "such as aimv2-large-patch14-336."
        )
    biases = [
        config.get(name, bool, config.get("use_bias", bool, False)) for name in ("qkv_bias", "mlp_bias")
    ]
    if biases[0] != biases[1]:
        raise CheckpointError(
            f"{config.where}: qkv_bias is {biases[0]} and mlp_bias {biases[1]}, expected both alike."
        )
    return ImageEncoderConfig(
        **_transformers_sizes(config),
        activation=_activation(config, "silu"),
        norm_eps=config.get("rms_norm_eps", float, 1e-5),
        class_token=False,
        pre_norm=False,
        patch_bias=True,
        final_norm=feature_layer == -1,
        feature_layer=feature_layer,
        norm="rms",
        patch_norm=True,
        gated=True,
        bias=biases[0],
    )


def open_clip_config(config: SourceConfig, *, feature_layer: int = -1) -> ImageEncoderConfig:
    """Return the sizes of open_clip's own ViT, from the ``model_cfg`` of its ``open_clip_config.json``."""
    vision = config.section("vision_cfg")
    if "timm_model_name" in vision:
        name = vision.values["timm_model_name"]
        raise CheckpointError(
            f"{vision.where}: this encoder is timm's {name!r}, whose names are not known here; give the "
            "transformers version of it."
        )
    width, head_width = vision.need("width", int), vision.get("head_width", int, 64)
    return ImageEncoderConfig(
        image_size=vision.need("image_size", int),
        patch_size=vision.need("patch_size", int),
        hidden_dims=width,
        feed_forward_dims=int(width * vision.get("mlp_ratio", float, 4.0)),
        num_layers=vision.need("layers", int),
        num_heads=width // head_width,
        activation="quick_gelu" if config.get("quick_gelu", bool, False) else "gelu",  # open_clip's default
        norm_eps=1e-5,
        class_token=True,
        pre_norm=True,
        patch_bias=False,
        final_norm=False,
        feature_layer=feature_layer,
    )


def qwen2_vl_config(config: SourceConfig, *, image_size: int, feature_layer: int) -> ImageEncoderConfig:
    """Return the sizes of Qwen2-VL's vision encoder, without its merger."""
    width = config.need("embed_dim", int)
    return ImageEncoderConfig(
        image_size=image_size,
        patch_size=config.need("patch_size", int),
        temporal_patch_size=config.need("temporal_patch_size", int),
        patch_block=config.need("spatial_merge_size", int),
        hidden_dims=width,
        feed_forward_dims=int(width * config.need("mlp_ratio", float)),
        num_layers=config.need("depth", int),
        num_heads=config.need("num_heads", int),
        activation=_activation(config, "quick_gelu"),
        norm_eps=1e-6,
        positions="rotary",
        class_token=False,
        pre_norm=False,
        final_norm=False,
        patch_bias=False,
        feature_layer=feature_layer,
    )


def transformers_keys(config: ImageEncoderConfig) -> KeyTable:
    """Return the table of transformers' CLIP and SigLIP vision models, without the prefix ``vision_model.``."""
    moves = {
        "embeddings.patch_embedding.weight": Move(
            ("patch_embedding.weight",), flatten_patches(config.patch_size)
        ),
        "embeddings.position_embedding.weight": _positions(config),
    }
    if config.patch_bias:
        moves["embeddings.patch_embedding.bias"] = Move(("patch_embedding.bias",), SAME)
    if config.class_token:
        moves["embeddings.class_embedding"] = Move(("class_embedding",), SAME)
    if config.pre_norm:
        moves |= keep_layer("pre_layrnorm", "pre_norm")
    moves |= keep_layer("post_layernorm", "post_norm")
    for i in range(config.num_layers):
        source, target = f"encoder.layers.{i}", f"layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            moves |= keep_layer(f"{source}.self_attn.{name}", f"{target}.attention.{name}")
        for name in ("fc1", "fc2"):
            moves |= keep_layer(f"{source}.mlp.{name}", f"{target}.feed_forward.{name}")
        for number in (1, 2):
            moves |= keep_layer(f"{source}.layer_norm{number}", f"{target}.norm{number}")
    # Where the last layer's features are taken, HyperCLOVAX puts an identity in place of the last norm.
    absent = {} if config.final_norm else {"post_layernorm.weight": 1.0, "post_layernorm.bias": 0.0}
    return KeyTable(moves, ("embeddings.position_ids", "head.*"), absent)


def open_clip_keys(config: ImageEncoderConfig) -> KeyTable:
    """Return the table of the image half of an open_clip model, without the prefix ``visual.``."""
    moves = {
        "conv1.weight": Move(("patch_embedding.weight",), flatten_patches(config.patch_size)),
        "positional_embedding": _positions(config),
        "class_embedding": Move(("class_embedding",), SAME),
    }
    moves |= keep_layer("ln_pre", "pre_norm") | keep_layer("ln_post", "post_norm")
    for i in range(config.num_layers):
        source, target = f"transformer.resblocks.{i}", f"layers.{i}"
        for name in ("weight", "bias"):
            targets = tuple(f"{target}.attention.{x}_proj.{name}" for x in "qkv")
            moves[f"{source}.attn.in_proj_{name}"] = Move(targets, split_thirds(config.hidden_dims))
        moves |= keep_layer(f"{source}.attn.out_proj", f"{target}.attention.out_proj")
        moves |= keep_layer(f"{source}.mlp.c_fc", f"{target}.feed_forward.fc1")
        moves |= keep_layer(f"{source}.mlp.c_proj", f"{target}.feed_forward.fc2")
        for number in (1, 2):
            moves |= keep_layer(f"{source}.ln_{number}", f"{target}.norm{number}")
    return KeyTable(moves, ("proj",))


def aimv2_keys(config: ImageEncoderConfig) -> KeyTable:
    """Return the table of transformers' AIMv2 vision model, whose pooling head is dropped."""
    moves = _aimv2_patches(config, "embeddings.patch_embed", "embeddings.rms_norm")
    moves["embeddings.position_embedding.weight"] = _positions(config)
    moves["rms_norm.weight"] = Move(("post_norm.weight",), SAME)
    names = {"gate_proj": "fc1", "down_proj": "fc2", "up_proj": "fc3"}
    for i in range(config.num_layers):
        source, target = f"encoder.layers.{i}", f"layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            moves |= _keep_map(config, f"{source}.attention.{name}", f"{target}.attention.{name}")
        for theirs, ours in names.items():
            moves |= _keep_map(config, f"{source}.ffn.{theirs}", f"{target}.feed_forward.{ours}")
        for number in (1, 2):
            moves[f"{source}.rms_norm{number}.weight"] = Move((f"{target}.norm{number}.weight",), SAME)
    return KeyTable(moves, ("embeddings.position_ids", "head.*"))


def aimv2_publisher_keys(config: ImageEncoderConfig) -> KeyTable:
    """Return the table of AIMv2 as Apple publishes it."""
    moves = _aimv2_patches(config, "preprocessor.patchifier.proj", "preprocessor.patchifier.norm")
    moves["preprocessor.pos_embed"] = Move(("position_embedding",), BATCH_OF_ONE)
    moves["trunk.post_trunk_norm.weight"] = Move(("post_norm.weight",), SAME)
    for i in range(config.num_layers):
        source, target = f"trunk.blocks.{i}", f"layers.{i}"
        for kind in ("weight", "bias") if config.bias else ("weight",):
            targets = tuple(f"{target}.attention.{x}_proj.{kind}" for x in "qkv")
            moves[f"{source}.attn.qkv.{kind}"] = Move(targets, split_thirds(config.hidden_dims))
        moves |= _keep_map(config, f"{source}.attn.proj", f"{target}.attention.out_proj")
        for name in ("fc1", "fc2", "fc3"):
            moves |= _keep_map(config, f"{source}.mlp.{name}", f"{target}.feed_forward.{name}")
        for number in (1, 2):
            moves[f"{source}.norm_{number}.weight"] = Move((f"{target}.norm{number}.weight",), SAME)
    return KeyTable(moves, ("head.*",))


def _aimv2_patches(config: ImageEncoderConfig, patches: str, norm: str) -> dict[str, Move]:
    return {
        f"{patches}.weight": Move(("patch_embedding.weight",), flatten_patches(config.patch_size)),
        f"{patches}.bias": Move(("patch_embedding.bias",), SAME),
        f"{norm}.weight": Move(("patch_norm.weight",), SAME),
    }


def _keep_map(config: ImageEncoderConfig, source: str, target: str) -> dict[str, Move]:
    """Return the moves of a linear map, with its bias where it has one."""
    kinds = ("weight", "bias") if config.bias else ("weight",)
    return {f"{source}.{kind}": Move((f"{target}.{kind}",), SAME) for kind in kinds}


def qwen2_vl_keys(config: ImageEncoderConfig) -> KeyTable:
    """Return the table of Qwen2-VL's vision encoder, without its merger."""
    patch = flatten_patches(config.patch_size, frames=config.temporal_patch_size)
    moves = {"patch_embed.proj.weight": Move(("patch_embedding.weight",), patch)}
    for i in range(config.num_layers):
        source, target = f"blocks.{i}", f"layers.{i}"
        for name in ("weight", "bias"):
            targets = tuple(f"{target}.attention.{x}_proj.{name}" for x in "qkv")
            moves[f"{source}.attn.qkv.{name}"] = Move(targets, split_thirds(config.hidden_dims))
        moves |= keep_layer(f"{source}.attn.proj", f"{target}.attention.out_proj")
        for name in ("fc1", "fc2"):
            moves |= keep_layer(f"{source}.mlp.{name}", f"{target}.feed_forward.{name}")
        for number in (1, 2):
            moves |= keep_layer(f"{source}.norm{number}", f"{target}.norm{number}")
    return KeyTable(moves, ("rotary_pos_emb.inv_freq",))


def _positions(config: ImageEncoderConfig) -> Move:
    """Return the move of the positions: one row for each patch, after a row for the class token if there is one."""
    patches_only = Move(("position_embedding",), SAME)
    split = split_rows(0, config.grid_side**2)
    return Move(("class_position", "position_embedding"), split) if config.class_token else patches_only
