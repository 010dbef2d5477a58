"""Read a decoder's settings as transformers 4 or 5, or its publisher, writes them, and say them in mlx-lm's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mm1_mlx.model.mlx_lm_parts import is_known, list_settings

from .source_config import SourceConfig

FULL, LINEAR = "full_attention", "linear_attention"
MAMBA = ("granitemoehybrid",)  # kinds whose layers mlx-lm calls mamba and attention
LARGEST = 3e38  # of float32
# What transformers' classes always compute with, and mlx-lm asks for; and what mlx-lm has a second name for.
IMPLIED: dict[str, dict[str, Any]] = {
    "apertus": {"mlp_bias": False, "post_norm": False, "qk_norm": True},
    "glm_moe_dsa": {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1},
    "longcat_flash": {
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    },
}
SAME = {"n_ctx": "n_positions", "block_dim": "hidden_size"}
BY_WEIGHTS = ("tie_word_embeddings",)  # what the stored tensors say better than a class's default
SIZES = (
    "hidden_size",
    "vocab_size",
    "max_position_embeddings",
)  # which every decoder's configuration states here


def find_kind(config: SourceConfig) -> str:
    """Return the kind of a decoder: its ``model_type``, or where only its publisher knows that, its architecture's.

    An architecture is not believed where the publisher's own code defines it.
    """
    kind = config.get("model_type", str, "")
    if is_known(kind) or "AutoModelForCausalLM" in config.get("auto_map", dict, {}):
        return kind
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind in CONFIG_MAPPING:
        return kind
    architectures = config.get("architectures", list, [])
    named = [
        known
        for known, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        if architecture in architectures and is_known(known)
    ]
    # Several kinds may be of one architecture, such as LlamaForCausalLM; it bears the name of one.
    return max(named, key=lambda known: architectures[0].lower().startswith(known), default=kind)


def complete_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return a decoder's settings under the names that mlx-lm reads, with transformers' values where a file has none.

    transformers 5 renames settings (``num_local_experts`` for ``num_experts``), moves those of rotary positions into
    ``rope_parameters``, and leaves out values that a class has by default, which are not always mlx-lm's.

    Raises:
        ConfigError: mlx-lm has no such decoder.
    """
    values = {name: _restore_number(value) for name, value in values.items()}
    names, theirs = list_settings(values), _read_as_transformers(values)
    rope = values.get("rope_parameters") or theirs.get("rope_parameters")
    found = (_restore_rope(rope, names) if isinstance(rope, dict) else {}) | values
    known = (
        {name: theirs[other] for name, other in SAME.items() if other in theirs}
        | IMPLIED.get(values["model_type"], {})
        | theirs
    )
    for name, needed in {**dict.fromkeys(SIZES, True), **names}.items():
        told = known.get(name) is not None and name not in BY_WEIGHTS
        if name not in found and name in known and (needed or told):
            found[name] = _restore_number(known[name])
    if theirs and "head_dim" in names and found.get("head_dim") is None:
        found["head_dim"] = theirs["hidden_size"] // theirs["num_attention_heads"]
    return found | _restore_layers(found, names)


def _read_as_transformers(values: dict[str, Any]) -> dict[str, Any]:
    """Return all settings that transformers' class has for these values, under old and new names; none without it."""
    from transformers import CONFIG_MAPPING
    from transformers.utils import logging

    if values["model_type"] not in CONFIG_MAPPING:
        return {}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = CONFIG_MAPPING[values["model_type"]].from_dict(dict(values))
    except Exception:  # values of another version of this kind, which mlx-lm may still read
        return {}
    finally:
        logging.set_verbosity(verbosity)
    known = config.to_dict()
    known |= {old: known[new] for old, new in config.attribute_map.items() if new in known}
    return known


def _restore_rope(rope: Mapping[str, Any], names: Mapping[str, bool]) -> dict[str, Any]:
    """Return the settings of rotary positions where mlx-lm reads them.

    Gemma 3 and others have one set for each kind of layer.
    """
    sliding = rope.get("sliding_attention") or {}
    rope = rope.get("full_attention") or rope
    theta, share = rope.get("rope_theta"), rope.get("partial_rotary_factor")
    scaled = rope.get("rope_type", "default") != "default"
    moved = {
        "rope_theta": theta,
        "rope_scaling": rope if scaled else None,
        "rope_local_base_freq": sliding.get("rope_theta"),
        "rotary_emb_base": theta if "rotary_emb_base" in names else None,
        "rotary_pct" if "rotary_pct" in names else "partial_rotary_factor": share,
    }
    return {key: value for key, value in moved.items() if value is not None or names.get(key)}


def _restore_layers(values: Mapping[str, Any], names: Mapping[str, bool]) -> dict[str, Any]:
    """Return what mlx-lm reads in place of a list that names each layer's attention, or its feed-forward layer."""
    layers, feed_forward = values.get("layer_types"), values.get("mlp_layer_types")
    found: dict[str, Any] = {}
    if isinstance(layers, list) and "sliding_window_pattern" in names and "layer_types" not in names:
        if values["model_type"] == "exaone4":
            found["sliding_window_pattern"] = "".join("G" if layer == FULL else "L" for layer in layers)
        elif FULL in layers and "sliding_window_pattern" not in values:
            found["sliding_window_pattern"] = layers.index(FULL) + 1
    if isinstance(layers, list) and values["model_type"] in MAMBA:
        found["layer_types"] = [{LINEAR: "mamba", FULL: "attention"}.get(layer, layer) for layer in layers]
        found["position_embedding_type"] = values.get("position_embedding_type") or "nope"
    if isinstance(feed_forward, list) and names.get("is_moe_layer"):
        found["is_moe_layer"] = [layer == "sparse" for layer in feed_forward]
    return found


def _restore_number(value: Any) -> Any:
    """Return a setting with its infinite numbers, which transformers writes as objects, as the largest there are."""
    if isinstance(value, dict) and list(value) == ["__float__"]:
        return {"Infinity": LARGEST, "-Infinity": -LARGEST}.get(value["__float__"], value)
    return [_restore_number(one) for one in value] if isinstance(value, list | tuple) else value
