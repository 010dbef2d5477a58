"""Load a model folder: configuration, weights and tokenizer; every mismatch is reported by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.arguments import require_type
from mm1_mlx.arrays import flatten, name_dtype
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.checkpoint.sizes import build_model
from mm1_mlx.checkpoint.tokenizer import load_tokenizer_of
from mm1_mlx.config import MM1Config
from mm1_mlx.errors import CheckpointError, ConfigError
from mm1_mlx.files.json_files import parse_json
from mm1_mlx.files.weight_files import read_weights
from mm1_mlx.files.weights import check_weights, evaluate_weights
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.tuning.adapters import untrained_parts
from mm1_mlx.tuning.folder import combine_adapters

HF_KEYS = {"architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path"}


def load(
    path_or_hub_id: str | Path,
    *,
    adapter_path: str | Path | Mapping[str | Path, float] | None = None,
    dtype: str | mx.Dtype | None = None,
    lazy: bool = False,
) -> tuple[MM1, Processor]:
    """Load a model folder, with adapters that were tuned for it if they are given.

    Args:
        path_or_hub_id: "mm1-tiny", a folder, or a hub id.
        adapter_path: an adapter folder, or several with their weights.
        dtype: "float16", "bfloat16" or "float32", or MLX's own; None keeps the stored type on a GPU and takes float32
            on a CPU, where 16-bit products are slow.
        lazy: read weights when they are first computed with, without checking them for NaN before; a CPU then
            keeps their stored type too.

    Raises:
        CheckpointError: a folder is incomplete, its weights do not fit its configuration, or an adapter was tuned
            on another model.
        ConfigError: its configuration is not that of an MM1 model.
    """
    model, processor = read_model(path_or_hub_id, adapter_path=adapter_path, dtype=dtype, lazy=lazy)
    if untrained := untrained_parts(model):
        verb = "is" if len(untrained) == 1 else "are"
        told = f"mm1: the {' and '.join(untrained)} of {path_or_hub_id} {verb} untrained: its answers"
        if "decoder" in untrained:
            print(f"{told} are noise.", file=sys.stderr)
        else:
            processor.notices.append(f"{told} about pictures are noise.")
    if not processor.tokenizer.chat_template:
        print(f"mm1: {path_or_hub_id} has no chat template: prompts are read as plain text.", file=sys.stderr)
    return model, processor


def read_model(
    path_or_hub_id: str | Path,
    *,
    adapter_path: str | Path | Mapping[str | Path, float] | None = None,
    dtype: str | mx.Dtype | None = None,
    lazy: bool = False,
) -> tuple[MM1, Processor]:
    """Do what ``load`` does, without its notices; for callers that go on training."""
    require_type("path_or_hub_id", path_or_hub_id, str | Path, CheckpointError)
    require_type("adapter_path", adapter_path, str | Path | Mapping | None, CheckpointError)
    dtype = name_dtype(dtype)
    folder = find_folder(path_or_hub_id)
    config = read_config(folder)
    weights = read_weights(folder)
    shapes = {key: value.shape for key, value in weights.items()}
    model = build_model(config, shapes, folder / "config.json")
    if config.quantization is not None:
        _quantize_layers(model, config.quantization, weights)
    check_weights(flatten(model.parameters()), weights, folder, again="convert it again.")
    if not lazy:
        if dtype is None and mx.default_device() == mx.cpu:
            dtype = "float32"
        evaluate_weights(weights, getattr(mx, dtype) if dtype else None, folder)
    model.load_weights(list(weights.items()), strict=True)
    if lazy and dtype:
        model.set_dtype(getattr(mx, dtype))
    model.eval()
    if adapter_path:
        combine_adapters(model, adapter_path if isinstance(adapter_path, Mapping) else {adapter_path: 1.0})
    return model, Processor(load_tokenizer_of(folder, config), config)


def read_config(folder: Path) -> MM1Config:
    """Return the configuration of a model folder.

    Raises:
        CheckpointError: there is no configuration, or it is not JSON.
        ConfigError: it does not describe an MM1 model.
    """
    path = folder / "config.json"
    values = parse_json(path, f"{folder} has no config.json; give a model folder.")
    if not isinstance(values, dict) or values.get("model_type") != "mm1":
        found = values.get("model_type") if isinstance(values, dict) else values
        raise CheckpointError(
            f"{path}: model_type is {found!r}, expected 'mm1'; turn a PyTorch checkpoint into a model "
            f"folder first: python -m mm1_mlx.convert {path.parent} --output DIR"
        )
    try:
        return MM1Config.from_dict({k: v for k, v in values.items() if k not in HF_KEYS})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def stored_dtypes(folder: Path) -> dict[str, mx.Dtype]:
    """Return the type in which a model folder stores each of its weights; loading may convert them.

    The weight of a packed layer, were it unpacked, has the type of its scales.

    Raises:
        CheckpointError: the weights are absent or damaged.
    """
    found = {key: value.dtype for key, value in read_weights(folder).items()}
    scales = {key.removesuffix(".scales"): dtype for key, dtype in found.items() if key.endswith(".scales")}
    return found | {f"{path}.weight": dtype for path, dtype in scales.items()}


def _quantize_layers(model: MM1, quantization: dict[str, Any], weights: dict[str, mx.array]) -> None:
    """Replace the layers whose weights are stored packed by quantized layers."""

    def choose_packing(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in weights or not hasattr(module, "to_quantized"):
            return False
        return quantization.get(path, True)

    try:
        nn.quantize(
            model,
            group_size=quantization["group_size"],
            bits=quantization["bits"],
            mode=quantization.get("mode", "affine"),
            class_predicate=choose_packing,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"config.json: quantization {quantization} cannot be applied ({error}).") from None
