"""Read a decoder of a GGUF file: its configuration as mlx-lm writes it, and where its tensors go.

llama.cpp reorders the rows of a Llama's queries and keys for its own way of turning positions; the key table undoes
that. A setting that is not known here is refused, because it may change what the decoder computes.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.errors import CheckpointError

from .gguf_file import GgufFile
from .key_table import SAME, KeyTable, Move, Transform, make_transform

ARCHITECTURES = ("llama", "qwen2", "qwen3")
SIZES = {  # mlx-lm's settings by llama.cpp's, whose names the architecture precedes
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
HEAD_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
SCALING = "rope.scaling."
WITHOUT_EFFECT = (  # values for which a setting does nothing; none listed: it never does
    ("vocab_size", ()),
    ("tensor_data_layout", ()),
    ("pooling_type", ()),
    (f"{SCALING}finetuned", ()),
    ("attention.causal", (True,)),
    ("expert_count", (0,)),
    ("expert_used_count", (0,)),
    ("use_parallel_residual", (False,)),
    ("rope.scale_linear", (1.0,)),
    (f"{SCALING}attn_factor", (1.0,)),
    (f"{SCALING}yarn_attn_factor", (1.0,)),
    (f"{SCALING}yarn_ext_factor", (1.0,)),
    (f"{SCALING}yarn_beta_fast", (32.0,)),
    (f"{SCALING}yarn_beta_slow", (1.0,)),
)
ROPE_FACTORS = "rope_freqs.weight"  # what a Llama 3.1's positions are divided by
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
DROPPED = (ROPE_FACTORS, "blk.*.attn_rot_embd.weight", "blk.*.attn_rot_embd")
NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_gguf_decoder(file: GgufFile) -> tuple[MlxLmDecoderConfig, KeyTable]:
    """Return a decoder's configuration, and the table from its tensors' names to those of an MM1's decoder.

    Raises:
        CheckpointError: the architecture is not one of ``ARCHITECTURES``, or a setting is absent or not known.
        ConfigError: mlx-lm does not compute with a setting.
    """
    kind = file.need("general.architecture", str)
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{file.path} holds {kind!r}; GGUF files of {', '.join(ARCHITECTURES)} are read here. Take the model's "
            "safetensors in place of it."
        )
    if file.get("split.count", int, 1) > 1:
        raise CheckpointError(
            f"{file.path} is one of {file.metadata['split.count']} parts; join them first: llama-gguf-split --merge."
        )
    values = _read_sizes(file, kind) | _read_rope(file, kind)
    values |= {"model_type": kind, "tie_word_embeddings": "output.weight" not in file.infos}
    table = _make_table(file, kind, values)
    if kind == "llama":
        values["attention_bias"] = "blk.0.attn_q.bias" in file.infos
        values["mlp_bias"] = "blk.0.ffn_up.bias" in file.infos
    return MlxLmDecoderConfig(values), table


def _read_sizes(file: GgufFile, kind: str) -> dict[str, Any]:
    """Return a decoder's sizes, after every setting of the architecture has been found to be known."""
    known = {*SIZES, *HEAD_SIZES, "attention.head_count_kv", "attention.layer_norm_rms_epsilon"}
    known |= {"rope.freq_base", f"{SCALING}type", f"{SCALING}factor", f"{SCALING}original_context_length"}
    known |= {"attention.sliding_window"}
    harmless = dict(WITHOUT_EFFECT)
    for key, value in file.metadata.items():
        name = key.removeprefix(f"{kind}.")
        if name == key or name in known or (name in harmless and value in (harmless[name] or (value,))):
            continue
        raise CheckpointError(
            f"{file.path}: {key} is {value!r:.80}, which is not known here and may change what the decoder "
            "computes. Take the model's safetensors in place of it."
        )
    values: dict[str, Any] = {ours: file.need(f"{kind}.{name}", int) for name, ours in SIZES.items()}
    heads = values["num_attention_heads"]
    if heads <= 0 or values["hidden_size"] <= 0:
        raise CheckpointError(f"{file.path}: {kind}.attention.head_count is {heads}, expected more than 0.")
    head_size = file.get(f"{kind}.attention.key_length", int, values["hidden_size"] // heads)
    for name in HEAD_SIZES:
        if (found := file.get(f"{kind}.{name}", int, head_size)) != head_size:
            raise CheckpointError(
                f"{file.path}: {kind}.{name} is {found}, expected {head_size}, as wide as a head; mlx-lm's {kind} "
                "has no other."
            )
    if kind == "qwen2" and head_size * heads != values["hidden_size"]:
        raise CheckpointError(f"{file.path}: its heads are {head_size} wide, which mlx-lm's qwen2 has not.")
    window = file.get(f"{kind}.attention.sliding_window", int, 0)
    if 0 < window < values["max_position_embeddings"]:
        raise CheckpointError(
            f"{file.path}: {kind}.attention.sliding_window is {window}, and which layers have it is not said. Take "
            "the model's safetensors in place of it."
        )
    values |= {} if kind == "qwen2" else {"head_dim": head_size}
    table = file.infos.get("token_embd.weight")
    return values | {
        "num_key_value_heads": file.get(f"{kind}.attention.head_count_kv", int, heads),
        "rms_norm_eps": _read_number(file, f"{kind}.attention.layer_norm_rms_epsilon"),
        "vocab_size": table.shape[0] if table else 0,
    }


def _read_rope(file: GgufFile, kind: str) -> dict[str, Any]:
    """Return how positions are turned: mlx-lm's ``rope_theta`` and, where they are stretched, ``rope_scaling``."""
    values: dict[str, Any] = {"rope_theta": _read_number(file, f"{kind}.rope.freq_base", 10_000.0)}
    how = file.get(f"{kind}.{SCALING}type", str, "none")
    if how in ("linear", "yarn"):
        scaling: dict[str, Any] = {"factor": _read_number(file, f"{kind}.{SCALING}factor")}
        if how == "yarn":
            length = file.need(f"{kind}.{SCALING}original_context_length", int)
            scaling["original_max_position_embeddings"] = length
        values["rope_scaling"] = {"rope_type": how} | scaling
    elif how != "none":
        raise CheckpointError(
            f"{file.path}: {kind}.{SCALING}type is {how!r}; none, linear and yarn are known here. Take the model's "
            "safetensors in place of it."
        )
    if ROPE_FACTORS in file.infos:
        if "rope_scaling" in values:
            raise CheckpointError(f"{file.path} stretches positions twice: by {how} and by {ROPE_FACTORS}.")
        values["rope_scaling"] = _find_llama3_scaling(file, values["rope_theta"])
    return values


def _find_llama3_scaling(file: GgufFile, theta: float) -> dict[str, Any]:
    """Return the settings of Llama 3.1's positions, of which a GGUF file has only the result."""
    found = np.array(file.read(ROPE_FACTORS).astype(mx.float32)).ravel()
    scaling = {"rope_type": "llama3", "factor": _shorten(float(found.max())), **LLAMA3}
    low, high, length = LLAMA3.values()
    turns = length * theta ** -(np.arange(len(found)) / len(found)) / (2 * math.pi)  # in the first context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    if not np.allclose(found, 1 / ((1 - smooth) / scaling["factor"] + smooth), rtol=1e-4):
        raise CheckpointError(
            f"{file.path}: {ROPE_FACTORS} is not what Llama 3.1 and 3.2 have. Take the model's safetensors in place "
            "of it."
        )
    return scaling


def _make_table(file: GgufFile, kind: str, values: dict[str, Any]) -> KeyTable:
    """Return the table of a decoder's tensors."""
    moves = {
        "token_embd.weight": Move(("decoder.model.embed_tokens.weight",), SAME),
        "output_norm.weight": Move(("decoder.model.norm.weight",), SAME),
    }
    if not values["tie_word_embeddings"]:
        moves["output.weight"] = Move(("decoder.lm_head.weight",), SAME)
    heads = {"attn_q": values["num_attention_heads"], "attn_k": values["num_key_value_heads"]}
    if any(count <= 0 for count in heads.values()):
        raise CheckpointError(f"{file.path}: it has no heads; its numbers are {heads}.")
    for number in range(min(values["num_hidden_layers"], len(file.infos))):
        for theirs, ours in NAMES.items():
            if theirs.endswith(("q_norm", "k_norm")) and kind != "qwen3":
                continue
            order = separate_halves(heads[theirs]) if kind == "llama" and theirs in heads else SAME
            for name in ("weight", "bias"):
                source, target = f"blk.{number}.{theirs}.{name}", f"model.layers.{number}.{ours}.{name}"
                if name == "weight" or f"blk.0.{theirs}.bias" in file.infos:
                    moves[source] = Move((f"decoder.{target}",), order)
    return KeyTable(moves, DROPPED)


def separate_halves(num_heads: int) -> Transform:
    """Return a transform of rows that alternate between the two halves of each head: one half after the other.

    llama.cpp turns neighbouring numbers of a Llama's head together, mlx-lm and transformers those half a head apart.
    """
    return make_transform(
        lambda x: x.reshape(num_heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape),
        lambda x: x.reshape(num_heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape),
    )


def _read_number(file: GgufFile, key: str, default: float | None = None) -> float:
    """Return a setting that is more than 0; ``default`` is llama.cpp's own for an absent one.

    Raises:
        CheckpointError: it is not more than 0, or absent and has no default.
    """
    number = file.need(key, float) if default is None else file.get(key, float, default)
    if not 0 < number < math.inf:
        raise CheckpointError(f"{file.path}: {key} is {number}, expected more than 0.")
    return _shorten(number)


def _shorten(number: float) -> float:
    """Return a float32 number in the fewest digits that give it again, as publishers write it."""
    return float(str(np.float32(number)))
