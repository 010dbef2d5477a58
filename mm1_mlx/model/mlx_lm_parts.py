"""The parts of mlx-lm's inside that this package uses; ``tests/model/test_mlx_lm_parts.py`` notices when they change."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.cache import (
    ArraysCache,
    KVCache,
    RotatingKVCache,
    can_trim_prompt_cache,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
    trim_prompt_cache,
)
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU, SwitchLinear
from mlx_lm.tuner.callbacks import get_reporting_callbacks
from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear
from mlx_lm.tuner.utils import build_schedule, linear_to_lora_layers
from mlx_lm.utils import MODEL_REMAPPING, _get_classes, load_model

from mm1_mlx.errors import CheckpointError, ConfigError
from mm1_mlx.files.weight_files import find_weights
from mm1_mlx.model.mlx_lm_kinds import KINDS, REASONS
from mm1_mlx.model.mlx_lm_settings import require_honoured

__all__ = [
    "AdapterLayer",
    "ArraysCache",
    "KVCache",
    "QuantizedSwitchLinear",
    "RotatingKVCache",
    "SwitchGLU",
    "SwitchLinear",
    "build_decoder",
    "build_schedule",
    "can_trim_prompt_cache",
    "check_settings",
    "create_attention_mask",
    "get_reporting_callbacks",
    "is_known",
    "linear_to_lora_layers",
    "list_settings",
    "load_decoder",
    "load_prompt_cache",
    "make_prompt_cache",
    "save_prompt_cache",
    "scaled_dot_product_attention",
    "token_embedding",
    "trim_prompt_cache",
]

AdapterLayer = LoRALinear | LoRASwitchLinear | LoRAEmbedding | DoRALinear | DoRAEmbedding

# These are built with a head, and ``sanitize`` removes it where the weights have none.
HEAD_GOES_BY_WEIGHTS = frozenset({"gemma3_text", "recurrent_gemma"})


def build_decoder(values: dict[str, Any]) -> nn.Module:
    """Build the mlx-lm decoder that ``values["model_type"]`` names, with random weights.

    Raises:
        ConfigError: mlx-lm has no such model, it is none of ``KINDS``, or ``values`` do not fit it.
    """
    name = values["model_type"]
    model_class, args_class = _find_classes(values)
    kind = model_class.__module__.rpartition(".")[2]
    if kind not in KINDS:
        raise ConfigError(_describe_refusal(name, REASONS.get(kind, "was not tried with this package")))
    require_honoured(values, args_class)
    try:
        model = model_class(args_class.from_dict(values))
        if name in HEAD_GOES_BY_WEIGHTS and values.get("tie_word_embeddings"):
            model.sanitize({})
        return model
    except Exception as error:  # each architecture fails in its own way on unexpected values
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"text_config does not fit mlx-lm's {name} ({reason}).") from None


def is_known(kind: str) -> bool:
    """Tell whether mlx-lm has a decoder of this kind, under this name or another."""
    return MODEL_REMAPPING.get(kind, kind) in {*KINDS, *REASONS}


def check_settings(values: dict[str, Any], where: str) -> None:
    """Refuse settings of a decoder that mlx-lm does not compute with; ``where`` begins the message.

    Raises:
        ConfigError: there is such a setting.
    """
    require_honoured(values, _get_classes(values)[1], where)


def list_settings(values: dict[str, Any]) -> dict[str, bool]:
    """Return the names of the settings that mlx-lm's decoder reads, and whether it cannot be built without each.

    Raises:
        ConfigError: mlx-lm has no such decoder.
    """
    _, args_class = _find_classes(values)
    return {
        field.name: field.default is MISSING and field.default_factory is MISSING
        for field in fields(args_class)
    }


def load_decoder(folder: Path, values: dict[str, Any]) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Return a decoder's weights as mlx-lm reads them from ``folder``, opened but not read, and its configuration.

    Args:
        folder: where its ``model*.safetensors`` are.
        values: its ``config.json``. A model with a ``text_config`` reads pictures itself: only its decoder is
            taken, with the sizes that mlx-lm fills in.

    Raises:
        CheckpointError: the weights are absent, damaged, or do not fit, or their index does not list every file.
        ConfigError: the configuration has settings that mlx-lm does not compute with.
    """
    find_weights(folder)  # mlx-lm reads every file that looks like weights, whatever the index says
    try:
        model, _ = load_model(folder, lazy=True, model_config=values)
    except Exception as error:  # each architecture fails in its own way on unexpected weights
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"mlx-lm cannot load the decoder of {folder}: {reason}") from None
    if "text_config" in values:
        model, inner = _language_model(model)
        require_honoured(values["text_config"], type(model.args))
        values = inner
    return dict(tree_flatten(model.parameters())), dict(values)


def _language_model(model: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return the decoder inside a model that reads pictures, and the decoder's configuration."""
    return model.language_model, vars(model.language_model.args)


def _find_classes(values: dict[str, Any]) -> tuple[Any, Any]:
    """Return the classes of the model and of its settings that mlx-lm has for ``values["model_type"]``.

    Raises:
        ConfigError: mlx-lm has no such decoder.
    """
    try:
        return _get_classes(values)
    except (
        ValueError,
        AttributeError,
        SystemExit,
    ):  # no such file, one without a model, or one that ends the process
        reason = "is not an architecture of mlx-lm"
        raise ConfigError(_describe_refusal(values["model_type"], reason)) from None


def _describe_refusal(name: str, reason: str) -> str:
    """Return the message that an architecture cannot be used, with those that can."""
    return f"text_config.model_type {name!r} {reason}; these work: mm1_decoder, {', '.join(KINDS)}."


def token_embedding(decoder: nn.Module, vocab_size: int) -> nn.Module:
    """Return the table that turns token ids into embeddings, whatever the architecture calls it.

    Raises:
        ConfigError: the decoder has not exactly one table with ``vocab_size`` rows.
    """
    modules = [module for _, module in decoder.named_modules()]
    adapters = {id(m.embedding): m for m in modules if isinstance(m, LoRAEmbedding | DoRAEmbedding)}
    tables = [
        adapters.get(id(module), module)
        for module in modules
        if isinstance(module, nn.Embedding | nn.QuantizedEmbedding) and _num_rows(module) == vocab_size
    ]
    if len(tables) != 1:
        raise ConfigError(f"the decoder has {len(tables)} embeddings of {vocab_size} rows, expected 1.")
    return tables[0]


def _num_rows(table: nn.Module) -> int:
    """Return the number of rows of a table; where processes share the rows, that of all of them together."""
    return getattr(table, "_num_rows", table["weight"].shape[0])
