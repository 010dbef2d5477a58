"""Convert the Llama decoder that every public C-Abstractor model has; mlx-lm's Llama has the same names."""

from __future__ import annotations

from collections.abc import Mapping

from mm1_mlx.config import DecoderConfig, MlxLmDecoderConfig
from mm1_mlx.errors import CheckpointError
from mm1_mlx.model.mlx_lm_parts import check_settings

from .decoder_settings import find_kind
from .key_table import SAME, KeyTable, Move, keep_first_rows
from .source_config import SourceConfig

Shapes = Mapping[str, tuple[int, ...]]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def llama_config(config: SourceConfig, shapes: Shapes) -> MlxLmDecoderConfig:
    """Return the sizes of a Llama decoder; values that the file leaves out are transformers' defaults for Llama.

    ``shapes`` are those of its tensors, without the prefix; an ``lm_head`` among them means that the head is untied.

    Raises:
        CheckpointError: the decoder is not a Llama, or a size is absent.
        ConfigError: a setting is one that mlx-lm's Llama does not compute with.
    """
    kind = find_kind(config) or "llama"
    if kind not in ("llama", "vicuna"):
        raise CheckpointError(
            f"{config.where}: the decoder is {kind!r}, and only Llama decoders of this source are known here."
        )
    activation = config.get("hidden_act", str, "silu")
    if activation != "silu":
        raise CheckpointError(
            f"{config.where}: hidden_act is {activation!r}, but mlx-lm's Llama has silu only."
        )
    if len(shapes.get(EMBEDDING, ())) != 2:
        found = f"is {shapes[EMBEDDING]}" if EMBEDDING in shapes else "is absent"
        raise CheckpointError(f"{config.where}: {EMBEDDING} {found}, expected a table of vectors.")
    if HEAD not in shapes and not config.get("tie_word_embeddings", bool, False):
        raise CheckpointError(
            f"{config.where}: the checkpoint has no {HEAD}, and the head is not tied; a shard is missing."
        )
    check_settings({**config.values, "model_type": "llama"}, config.where)
    rope = config.values.get("rope_parameters") or {}  # transformers 5 keeps the angles together
    heads = config.need("num_attention_heads", int)
    values = {
        "model_type": "llama",
        "vocab_size": shapes[EMBEDDING][0],
        "hidden_size": config.need("hidden_size", int),
        "intermediate_size": config.need("intermediate_size", int),
        "num_hidden_layers": config.need("num_hidden_layers", int),
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads", int, heads),
        "max_position_embeddings": config.need("max_position_embeddings", int),
        "rms_norm_eps": config.need("rms_norm_eps", float),
        "rope_theta": config.get("rope_theta", float, float(rope.get("rope_theta", 10_000.0))),
        "attention_bias": config.get("attention_bias", bool, False),
        "mlp_bias": config.get("mlp_bias", bool, False),
        "tie_word_embeddings": HEAD not in shapes,
    }
    for key in ("rope_theta", "max_position_embeddings", "num_attention_heads", "num_key_value_heads"):
        if values[key] <= 0:
            raise CheckpointError(f"{config.where}: {key} is {values[key]}, expected more than 0.")
    if config.values.get("head_dim") is not None:
        values["head_dim"] = config.need("head_dim", int)
    scaling = config.values.get("rope_scaling") or (
        rope if rope.get("rope_type", "default") != "default" else None
    )
    if scaling:
        values["rope_scaling"] = scaling
    return MlxLmDecoderConfig(values)


def llama_keys(config: DecoderConfig | MlxLmDecoderConfig, shapes: Shapes) -> KeyTable:
    """Return the table of a Llama, whose names stay the same; a head with more rows than the embedding loses its
    padding.
    """
    if isinstance(config, DecoderConfig):
        raise ValueError("a Llama decoder is one of mlx-lm's.")
    values = config.values
    names = [EMBEDDING, "model.norm.weight"]
    attention = [f"self_attn.{x}_proj" for x in "qkvo"]
    feed_forward = [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    for i in range(values["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        names += [f"{layer}{norm}.weight" for norm in ("input_layernorm", "post_attention_layernorm")]
        names += [f"{layer}{linear}.weight" for linear in attention + feed_forward]
        names += [f"{layer}{linear}.bias" for linear in attention if values.get("attention_bias")]
        names += [f"{layer}{linear}.bias" for linear in feed_forward if values.get("mlp_bias")]
    moves = {name: Move((name,), SAME) for name in names}
    if not values.get("tie_word_embeddings", True):  # mlx-lm's default
        stored, used = shapes[HEAD][0], values["vocab_size"]
        moves[HEAD] = Move((HEAD,), SAME if stored == used else keep_first_rows(used, stored))
    return KeyTable(moves, ("model.layers.*.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"))
