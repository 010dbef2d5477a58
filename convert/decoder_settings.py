"""Read a decoder's settings as transformers 4 or 5, or its publisher, writes them, and say them in mlx-lm's words."""

from __future__ import annotations

from mm1_mlx.model.mlx_lm_parts import is_known

from .source_config import SourceConfig


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
