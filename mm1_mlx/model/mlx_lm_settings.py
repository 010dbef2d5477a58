"""Refuse configurations of decoders that mlx-lm would read otherwise than their publishers do.

mlx-lm's decoders leave out settings that they have no field for, in silence. Most change nothing: how weights began, or
how training went. Those below change what the decoder computes, unless they have a value that does nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mm1_mlx.errors import ConfigError

# Settings that change the mathematics, and their values that change nothing. A decoder with a field for a setting
# honours it, except where it is named further below.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (False, None),
    "attention_bias": (False, None),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None, 0),
    "clip_qkv": (None,),
    "embedding_multiplier": (1, None),
    "final_logit_softcapping": (None, 0),
    "hidden_act": ("silu", "swish", None),
    "hidden_activation": ("gelu_pytorch_tanh", None),
    "lm_head_multiplier": (1, None),
    "logit_scale": (1, None),
    "logits_scaling": (1, None),
    "mlp_bias": (False, None),
    "moe_apply_router_weight_on_input": (False, None),
    "no_rope_layer_interval": (None,),
    "parallel_residual": (False, None),
    "partial_rotary_factor": (1, None),
    "qk_layernorm": (False, None),
    "residual_multiplier": (1, None),
    "routed_scaling_factor": (1, None),
    "scale_depth": (None,),
    "scale_emb": (1, None),
    "use_bidirectional_attention": (False, None, "vision"),  # among picture tokens of the publisher's own
    "use_parallel_residual": (False, None),
    "use_qk_norm": (False, None),
}
# By the names of mlx-lm's modules, in which other kinds live too.
GELU = {"gemma", "gemma2", "gemma3_text", "gemma4_text", "recurrent_gemma"}  # whatever hidden_act says
BUILT_IN: dict[str, dict[str, Any]] = {  # what a kind always computes with, as its publisher does
    "apertus": {"hidden_act": "xielu"},
    "gpt_neox": {"attention_bias": True, "hidden_act": "gelu"},
    "gpt_oss": {"attention_bias": True},
    "kimi_k3": {"hidden_act": "situ"},
    "llama4_text": {"no_rope_layer_interval": 4},
    "nanochat": {"final_logit_softcapping": 15.0, "hidden_act": "relu2"},
    "phi": {"hidden_act": "gelu_new"},
    "recurrent_gemma": {"partial_rotary_factor": 0.5},
    "starcoder2": {"hidden_act": "gelu_pytorch_tanh"},
}
NO_ROPE_SCALING = {"lfm2", "lfm2_moe", "mixtral", "qwen3_moe"}  # some have a field for it and do not read it
WHOLE_HEADS = {
    "gemma3_text",
    "llama",
    "mixtral",
    "ministral3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    *NO_ROPE_SCALING,
}

# By kind: these have windows wherever sliding_window is set, Gemma 2 in every other layer.
WINDOWS_WITHOUT_A_WORD = {
    "gemma2",
    "minimax",
    "ministral3",
    "mistral",
    "mixtral",
    "phi3",
    "phimoe",
    "starcoder2",
}
FULL, SLIDING = "full_attention", "sliding_attention"


def require_honoured(values: Mapping[str, Any], args_class: type, where: str = "text_config") -> None:
    """Refuse settings that change the mathematics and that mlx-lm's decoder has no place for.

    Args:
        values: a decoder's configuration.
        args_class: the dataclass of settings that mlx-lm's decoder reads.
        where: the section's name, for the message.

    Raises:
        ConfigError: there is such a setting.
    """
    module = args_class.__module__.rpartition(".")[2]
    fields = {field.name for field in dataclasses.fields(args_class)}
    for key, neutral in NEUTRAL.items():
        if key not in values or key in fields or (key == "hidden_act" and module in GELU):
            continue
        taken = BUILT_IN.get(module, {})
        if values[key] not in ((taken[key], None) if key in taken else neutral):
            raise ConfigError(
                f"{where}.{key} is {values[key]!r}, which mlx-lm's {module} does not compute with."
            )
    if "sliding_window_pattern" in fields and "layer_types" not in fields:
        _check_pattern(values, module, where)
    elif _has_window(values) and not (
        "layer_types" in fields and isinstance(values.get("layer_types"), list)
    ):
        window = values.get("sliding_window")
        raise ConfigError(
            f"{where}.sliding_window is {window}, but mlx-lm's {module} attends to all tokens before: answers past "
            f"{window} tokens would be wrong. To use the model up to there, set max_position_embeddings to {window} "
            "in its config.json."
        )
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(values.get(key), dict):
            _check_rope(values[key], module, f"{where}.{key}")


def _has_window(values: Mapping[str, Any]) -> bool:
    """Tell whether some layers attend only to a window that is shorter than the context."""
    window, context, layers = (
        values.get(k) for k in ("sliding_window", "max_position_embeddings", "layer_types")
    )
    if isinstance(window, int) and isinstance(context, int) and window >= context:
        return False
    if isinstance(layers, list):
        return SLIDING in layers
    if values.get("model_type") in WINDOWS_WITHOUT_A_WORD:
        return window is not None
    first, total = values.get("max_window_layers"), values.get("num_hidden_layers")
    if isinstance(first, int) and isinstance(total, int) and first >= total:
        return False
    return bool(values.get("use_sliding_window")) and window is not None


def _check_pattern(values: Mapping[str, Any], module: str, where: str) -> None:
    """Refuse windows in other layers than those that the decoder finds by counting."""
    layers, every = values.get("layer_types"), values.get("sliding_window_pattern") or 6
    if isinstance(every, str):  # a letter for each layer, over and over: L has a window
        if isinstance(layers, list) and layers != [
            SLIDING if every[n % len(every)] == "L" else FULL for n in range(len(layers))
        ]:
            raise ConfigError(f"{where}.layer_types has windows in other layers than sliding_window_pattern.")
        return
    if isinstance(layers, list) and layers != [
        SLIDING if (n + 1) % every else FULL for n in range(len(layers))
    ]:
        raise ConfigError(
            f"{where}.layer_types has windows in other layers than mlx-lm's {module}, where the last of every {every} "
            "has none."
        )


def _check_rope(rope: Mapping[str, Any], module: str, where: str) -> None:
    """Refuse rotary positions that the decoder computes in another way."""
    name = rope.get("rope_type") or rope.get("type") or "default"
    if module in NO_ROPE_SCALING and name not in ("default", "mrope"):
        raise ConfigError(f"{where} is of type {name!r}, which mlx-lm's {module} does not compute with.")
    if rope.get("partial_rotary_factor") not in (None, 1) and module in WHOLE_HEADS:
        raise ConfigError(f"{where}.partial_rotary_factor is not 1, but mlx-lm's {module} turns whole heads.")
    if name == "longrope" and rope.get("short_factor") != rope.get("long_factor"):
        raise ConfigError(
            f"{where} has a short_factor of its own, but mlx-lm takes long_factor at every length."
        )
    if name == "yarn" and (rope.get("truncate") is False or rope.get("attention_factor") is not None):
        raise ConfigError(f"{where} sets truncate or attention_factor of yarn, which mlx-lm does not read.")
    if name == "yarn" and rope.get("original_max_position_embeddings") is None:
        raise ConfigError(
            f"{where} is yarn without original_max_position_embeddings; mlx-lm would take 4096."
        )
