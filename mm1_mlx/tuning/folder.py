"""The adapter folder: save what tuning changed apart from the model, and put it back into the model.

``adapters.safetensors`` holds LoRA and DoRA matrices; files such as ``connector.safetensors`` hold the parts trained in
full. ``adapter_config.json`` says how they were made and for which model: for the decoder under mlx-lm's names, and
for the other parts under the same names one level down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.arrays import flatten
from mm1_mlx.errors import CheckpointError, ConfigError
from mm1_mlx.files.identity import model_identity, tensors_identity
from mm1_mlx.files.json_files import parse_json, write_json
from mm1_mlx.files.tensor_files import read_tensors, save_tensors
from mm1_mlx.files.weights import check_weights, evaluate_weights
from mm1_mlx.files.writing import new_files
from mm1_mlx.model.mlx_lm_parts import AdapterLayer
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.tuning import adapters
from mm1_mlx.tuning.settings import PARTS, PartTuning, Tuning

CONFIG = "adapter_config.json"
ADAPTERS = "adapters.safetensors"
AGAIN = "save or copy the adapter again."
WEIGHT_FILES = {ADAPTERS, *(f"{part}.safetensors" for part in PARTS)}


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter folder, read and checked."""

    folder: Path
    tuning: Tuning
    tensors: dict[str, mx.array]
    weight: float  # factor for its change of the model


@dataclass(frozen=True)
class Before:
    """The weights of parts trained in full, as they were when the model was loaded."""

    tensors: dict[str, mx.array]


def save_adapters(
    model: MM1,
    tuning: Tuning,
    folder: str | Path,
    *,
    base_identity: str,
    weights: dict[str, mx.array] | None = None,
) -> None:
    """Write what ``tuning`` trained in ``model``; other files in ``folder`` are kept.

    Every file is written whole, and loading refuses files of different saves.

    Args:
        model: prepared with ``tuning``, or loaded with an adapter of it.
        tuning: which parts are trained, and how.
        folder: made where there is none.
        base_identity: ``model_identity`` of the model before it was prepared.
        weights: all trained weights by key, where this model holds only a part of them.

    Raises:
        CheckpointError: the folder cannot be written.
        ValueError: the model was tuned in another way, or not at all.
    """
    if adapters.tunings_of(model) != (tuning,):
        raise ValueError("the model was not prepared with this tuning.")
    folder, tensors = Path(folder), adapters.adapter_weights(model) if weights is None else weights
    config = _part_to_config(tuning.decoder)
    config |= {part: _part_to_config(getattr(tuning, part)) for part in PARTS if part != "decoder"}
    config["base_model"] = {"identity": base_identity, "dtype": _dtype_name(model)}
    config["weights"] = tensors_identity(tensors)
    names = _file_names(tuning)
    try:
        with new_files(folder, [*names, CONFIG]) as made:  # the last file proves that the others are complete
            for name in names:
                own = {key: value for key, value in tensors.items() if _file_name(tuning, key) == name}
                save_tensors(made / name, own)
            write_json(made / CONFIG, config)
        for name in WEIGHT_FILES - names:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"the adapter {folder} cannot be written: {error.strerror}.") from None


def holds_adapter(folder: Path) -> bool:
    """Tell whether a folder has an adapter, or begins to: of this package, or of another one."""
    return (folder / CONFIG).exists() or (folder / ADAPTERS).exists()


def load_adapters(model: MM1, folder: str | Path, *, weight: float = 1.0) -> None:
    """Put a saved adapter into an untouched model; ``remove_adapters`` takes it off again.

    A part trained in full is then in memory twice, so that it can be taken off; ``fuse_adapters`` frees one copy.

    Args:
        model: the model that the adapter was tuned on.
        folder: the adapter folder.
        weight: factor for its change of the model.

    Raises:
        CheckpointError: the folder is incomplete, damaged, or made for another model; the model is unchanged.
        ValueError: the model has been tuned or has adapters.
    """
    combine_adapters(model, {folder: weight})


def combine_adapters(model: MM1, weights: Mapping[str | Path, float]) -> None:
    """Put several adapters into an untouched model, given by folder and weight.

    The sum is exact: the ranks for one linear are joined, and for parts trained in full the differences are added.
    DoRA rescales what it adapts, so nothing can be added to it: a part with DoRA must come from one adapter with
    weight 1.

    Raises:
        CheckpointError: as for ``load_adapters``, or the adapters cannot be combined.
        ValueError: as for ``load_adapters``.
    """
    if adapters.tunings_of(model):
        raise ValueError("the model has been prepared or has adapters; remove_adapters takes them off.")
    found = [_read_adapter(model, Path(folder), weight) for folder, weight in weights.items()]
    _check_together(found)
    base = flatten(model.parameters())
    layers: dict[str, list[AdapterLayer]] = {}
    moved: dict[str, mx.array] = {}
    for adapter in found:
        for path, layer in _build_layers(model, adapter).items():
            layers.setdefault(path, []).append(layer)
        for key in adapter.tensors.keys() & base.keys():
            moved[key] = _move(moved.get(key), base[key], adapter.tensors[key], adapter.weight)
    model.load_weights(list(moved.items()), strict=False)
    adapters.replace_modules(model, {path: _join_ranks(own) for path, own in layers.items()})
    mx.eval(model.parameters())
    model._tunings = tuple(adapter.tuning for adapter in found)
    model._before = Before({key: base[key] for key in moved})


def remove_adapters(model: MM1) -> None:
    """Take all adapters off, so that the model is exactly as it was loaded.

    Raises:
        ValueError: a part was trained in full in this process, which kept no copy of its first weights.
    """
    before = getattr(model, "_before", None)
    gone = [part for t in adapters.tunings_of(model) for part, own in t.parts.items() if own.how == "full"]
    if gone and before is None:
        raise ValueError(f"the {gone[0]} was trained in full, over its first weights; load the model again.")
    adapters.take_off(model)
    if before is not None:
        model.load_weights(list(before.tensors.items()), strict=False)
        del model._before


# The folder's configuration


def _part_to_config(own: PartTuning) -> dict[str, Any]:
    """Return a part's tuning under mlx-lm's names, which leave out ``keys`` where all linears are adapted."""
    config: dict[str, Any] = {"fine_tune_type": own.how, "num_layers": own.num_layers}
    if own.has_adapters:
        config["lora_parameters"] = {"rank": own.rank, "scale": own.scale, "dropout": own.dropout}
        config["lora_parameters"] |= {"keys": list(own.keys)} if own.keys else {}
    return config


def _part_from_config(config: dict[str, Any]) -> dict[str, Any]:
    how = {"how": config["fine_tune_type"], "num_layers": config["num_layers"]}
    return how | config.get("lora_parameters", {})


def _read_adapter(model: MM1, folder: Path, weight: float) -> Adapter:
    """Read an adapter folder and check that it is complete, undamaged and made for this model."""
    path = folder / CONFIG
    config = parse_json(path, f"{folder} has no {CONFIG}; give an adapter folder.")
    try:
        parts = {part: _part_from_config(config if part == "decoder" else config[part]) for part in PARTS}
        identity, dtype = config["base_model"]["identity"], config["base_model"]["dtype"]
        digest = config["weights"]
    except (KeyError, TypeError, AttributeError):
        peft = isinstance(config, dict) and "peft_type" in config
        hint = "python -m mm1_mlx.peft import reads PEFT's" if peft else "give a folder that mm1_mlx tuned"
        raise CheckpointError(f"{path} does not say which model it is of; {hint}.") from None
    try:
        tuning = Tuning.from_dict(parts)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    _check_base(model, folder, identity, dtype)
    if not math.isfinite(weight):
        raise CheckpointError(f"the weight of {folder} is {weight}, expected a finite number.")
    tensors = _read_tensors(folder, tuning)
    if tensors_identity(tensors) != digest:
        raise CheckpointError(f"{folder} is damaged, or its files are of different saves; {AGAIN}")
    return Adapter(folder, tuning, tensors, weight)


def _check_base(model: MM1, folder: Path, identity: str, dtype: str) -> None:
    if identity == model_identity(model):
        return
    if dtype != _dtype_name(model):
        raise CheckpointError(
            f"{folder} was tuned on a model in {dtype}, and this one is in {_dtype_name(model)}; load it with "
            f"`dtype` {dtype}."
        )
    raise CheckpointError(
        f"{folder} was tuned on another model, or on other weights or another config.json of it; give the `model` "
        "that it was tuned on."
    )


def _read_tensors(folder: Path, tuning: Tuning) -> dict[str, mx.array]:
    expected = _file_names(tuning)
    missing = sorted(name for name in expected if not (folder / name).exists())
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; {AGAIN}")
    extra = sorted(name for name in WEIGHT_FILES - expected if (folder / name).exists())
    if extra:
        raise CheckpointError(f"{folder} holds {', '.join(extra)}, which {CONFIG} does not speak of; {AGAIN}")
    tensors: dict[str, mx.array] = {}
    for name in expected:
        tensors |= read_tensors(folder / name, again=AGAIN)
    evaluate_weights(tensors, None, folder)
    return tensors


def _file_names(tuning: Tuning) -> set[str]:
    return {_file_name(tuning, part) for part in tuning.parts}


def _file_name(tuning: Tuning, key: str) -> str:
    """Return the name of the file that holds the weights with ``key``."""
    part = key.partition(".")[0]
    return ADAPTERS if getattr(tuning, part).has_adapters else f"{part}.safetensors"


def _dtype_name(model: MM1) -> str:
    return str(model.image_encoder.dtype).removeprefix("mlx.core.")


# Changes of the model


def _check_together(found: list[Adapter]) -> None:
    for part in PARTS:
        owners = [adapter for adapter in found if part in adapter.tuning.parts]
        for adapter in owners:
            if getattr(adapter.tuning, part).how == "dora" and (len(owners) > 1 or adapter.weight != 1):
                raise CheckpointError(
                    f"{adapter.folder} has DoRA in the {part}, which rescales all weights there: it goes with weight 1 "
                    "and with no other adapter of that part. Tune with LoRA to combine."
                )


def _build_layers(model: MM1, adapter: Adapter) -> dict[str, AdapterLayer]:
    """Build the adapter's layers, scaled by its weight, beside the model's own linears; the model is left without
    them.
    """
    try:
        adapters.prepare(model, adapter.tuning)
    except ConfigError as error:
        raise CheckpointError(f"{adapter.folder / CONFIG}: {error}") from None
    try:
        check_weights(adapters.adapter_weights(model), adapter.tensors, adapter.folder, again=AGAIN)
        beside = [item for item in adapter.tensors.items() if _file_name(adapter.tuning, item[0]) == ADAPTERS]
        model.load_weights(beside, strict=False)
        layers = adapters.adapter_layers(model)
    finally:
        adapters.take_off(model)
    if adapter.weight != 1:
        for layer in layers.values():
            layer.lora_b = adapter.weight * layer.lora_b
    return layers


def _join_ranks(layers: list[AdapterLayer]) -> AdapterLayer:
    """Join layers into one whose rank is the sum of theirs, and so is its change of the linear."""
    first = layers[0]
    if len(layers) > 1:
        experts = first.lora_a.ndim == 3  # each expert has a pair of matrices, transposed
        second = [layer.lora_b * (layer.scale / first.scale) for layer in layers]
        first.lora_a = mx.concatenate([layer.lora_a for layer in layers], axis=1)
        first.lora_b = mx.concatenate(second, axis=2 if experts else 0)
    return first


def _move(now: mx.array | None, base: mx.array, tuned: mx.array, weight: float) -> mx.array:
    """Return ``base``, or ``now`` after other adapters changed it, moved by what this adapter changed."""
    if now is None and weight == 1:
        return tuned.astype(base.dtype)
    change = weight * (tuned.astype(mx.float32) - base.astype(mx.float32))
    return ((base if now is None else now).astype(mx.float32) + change).astype(base.dtype)
