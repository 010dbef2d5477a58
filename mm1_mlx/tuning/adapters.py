"""Choose which weights are trained, and how: in full, or by adapters (LoRA, DoRA) beside the linears of a part.

The adapter layers are mlx-lm's. A new one changes nothing, because its second matrix is zero.

Source: LoRA (arXiv:2106.09685), DoRA (arXiv:2402.09353), QLoRA (arXiv:2305.14314).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeGuard

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mm1_mlx.arrays import flatten
from mm1_mlx.errors import ConfigError
from mm1_mlx.files.identity import forget_identity
from mm1_mlx.model.mlx_lm_parts import (
    AdapterLayer,
    QuantizedSwitchLinear,
    SwitchLinear,
    linear_to_lora_layers,
)
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.tuning.settings import PARTS, PartTuning, Tuning

LINEARS = (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear)
TABLES = (nn.Embedding, nn.QuantizedEmbedding)


def prepare(model: MM1, tuning: Tuning) -> None:
    """Put adapters into an untouched model, and freeze everything that is not trained.

    Packed weights are never trained: adapters go beside them. Layers of the image encoder after the one whose
    features are used stay frozen.

    Raises:
        ConfigError: a key matches nothing, there are fewer layers, the rank is larger than the linears, or weights
            to be trained are packed; the model is unchanged.
        ValueError: the model is being tuned already.
    """
    if tunings_of(model):
        raise ValueError("the model has been prepared or has adapters; remove_adapters takes them off.")
    places = {part: _places(model, part, own) for part, own in tuning.parts.items() if own.has_adapters}
    in_full = [
        module
        for part, own in tuning.parts.items()
        if own.how == "full"
        for module in _modules_in_full(model, part, own)
    ]
    model.freeze()
    for module in in_full:
        module.unfreeze()
    for module in _unused_modules(model):
        module.freeze()
    for part, paths in places.items():
        own = getattr(tuning, part)
        sizes = {"rank": own.rank, "scale": own.scale, "dropout": own.dropout, "keys": set(paths)}
        linear_to_lora_layers(model, 0, sizes, use_dora=own.how == "dora")
    model.train(model.training)
    model._tunings = (tuning,)
    forget_identity(model)


def tunings_of(model: nn.Module) -> tuple[Tuning, ...]:
    """Return how the model was changed since it was loaded: by one tuning, or by several adapters."""
    return getattr(model, "_tunings", ())


def tuned_parts(model: MM1) -> set[str]:
    """Return the parts with weights that are not, or not only, those of the model folder."""
    return {part for tuning in tunings_of(model) for part in tuning.parts}


def trained_parts(model: MM1) -> frozenset[str]:
    """Return the parts of a prepared model that have trainable weights."""
    return frozenset(part for part in PARTS if flatten(model[part].trainable_parameters()))


def adapter_weights(model: MM1) -> dict[str, mx.array]:
    """Return the trainable weights by key: those of adapters, and those trained in full."""
    return flatten(model.trainable_parameters())


def trained_counts(model: MM1) -> dict[str, tuple[int, int]]:
    """Return for each part how many numbers are trained, and how many it has; packed numbers count as unpacked ones."""
    return {part: (_count_numbers(model[part], trained=True), _count_numbers(model[part])) for part in PARTS}


def adapter_layers(model: MM1) -> dict[str, AdapterLayer]:
    """Return mlx-lm's layers that hold adapters, by path."""
    return {path: module for path, module in model.named_modules() if "lora_a" in module}


def take_off(model: MM1) -> None:
    """Put linears and tables back in the places of their adapters, so that nothing counts as tuned any more."""
    replace_modules(model, {path: layer[inner_name(layer)] for path, layer in adapter_layers(model).items()})
    model._tunings = ()
    forget_identity(model)


def replace_modules(model: MM1, modules: Mapping[str, nn.Module]) -> None:
    """Put each module in the place given by its path."""
    if modules:
        model.update_modules(tree_unflatten(list(modules.items())))


class PackedModule(nn.Module):
    """The attributes that all quantized linears and tables have, for type checkers; no module is of this class."""

    bits: int
    group_size: int
    mode: str


def is_packed(module: nn.Module) -> TypeGuard[PackedModule]:
    """Say whether a module is quantized."""
    return "scales" in module


def inner_name(layer: nn.Module) -> str:
    """Return the name under which a layer with an adapter keeps the linear or table that it adapts."""
    return "linear" if "linear" in layer else "embedding"


def _count_numbers(part: nn.Module, *, trained: bool = False) -> int:
    """Count a part's numbers, or only its trained ones."""
    packed = {path: module.bits for path, module in part.named_modules() if is_packed(module)}

    def size(key: str, value: mx.array) -> int:
        path, _, leaf = key.rpartition(".")
        if path not in packed or leaf == "bias":
            return value.size
        return value.size * 32 // packed[path] if leaf == "weight" else 0

    parameters = part.trainable_parameters() if trained else part.parameters()
    return sum(size(key, value) for key, value in flatten(parameters).items())


def _to_words(part: str) -> str:
    """Return the name of a part as words."""
    return part.replace("_", " ")


def _layers(model: MM1, part: str) -> Sequence[nn.Module]:
    """Return the layers of a part that run."""
    layers = getattr(model[part], "layers", [])
    return layers[: model.image_encoder.config.num_feature_layers] if part == "image_encoder" else layers


def _unused_modules(model: MM1) -> Sequence[nn.Module]:
    """Return the modules of the image encoder that come after the features that are used."""
    encoder = model.image_encoder
    behind = encoder.layers[encoder.config.num_feature_layers :]
    if "post_norm" in encoder and not encoder.config.final_norm:
        behind = [*behind, encoder.post_norm]
    return behind


def _last_layers(model: MM1, part: str, num_layers: int) -> Sequence[nn.Module]:
    """Return the last ``num_layers`` layers of a part that run; -1 means all."""
    layers = _layers(model, part)
    if num_layers > len(layers):
        raise ConfigError(f"num_layers is {num_layers}, but the {_to_words(part)} has {len(layers)}.")
    return layers if num_layers == -1 else layers[-num_layers:]


def _modules_in_full(model: MM1, part: str, own: PartTuning) -> Sequence[nn.Module]:
    """Return the modules to train in full."""
    if own.num_layers == -1 or part == "connector":
        modules = [model[part]]
    else:
        modules = _last_layers(model, part, own.num_layers)
    if any(is_packed(inner) for module in modules for inner in module.modules()):
        raise ConfigError(
            f"the {_to_words(part)} is quantized, and packed weights cannot be trained in full; take lora or dora for it, "
            "or the model before it was quantized."
        )
    return modules


def _places(model: MM1, part: str, own: PartTuning) -> list[str]:
    """Return the paths in the model of the modules that get an adapter."""
    inside, outside = _find_linears(model, part, own)
    chosen = [] if own.keys else list(inside)
    for key in own.keys:
        found = [path for path, name in inside.items() if fnmatchcase(name, key) or fnmatchcase(path, key)]
        found += [path for path in outside if path == key]
        if not found:
            raise ConfigError(_explain_missing_key(part, own, key, {*inside.values(), *outside}))
        chosen += found
    if not chosen:
        raise ConfigError(f"the {_to_words(part)} has no linears in its layers; name others with keys.")
    modules = dict(model[part].named_modules())
    for path in chosen:
        _check_dora(f"{part}.{path}", modules[path], own)
    largest = max(min(_dims(modules[path])) for path in chosen)
    if own.rank > largest:
        raise ConfigError(
            f"rank is {own.rank}, but the largest of the chosen linears of the {_to_words(part)} has rank {largest}."
        )
    return [f"{part}.{path}" for path in dict.fromkeys(chosen)]


def _find_linears(model: MM1, part: str, own: PartTuning) -> tuple[dict[str, str], list[str]]:
    """Find linears of the chosen layers, by path in the part with their name in the layer, and paths outside all
    layers.
    """
    modules = dict(model[part].named_modules())
    if part == "connector":
        return {path: path for path, module in modules.items() if isinstance(module, LINEARS)}, []
    paths = {id(module): path for path, module in modules.items()}
    chosen = {id(layer) for layer in _last_layers(model, part, own.num_layers)}
    inside, outside = {}, {path for path, module in modules.items() if isinstance(module, LINEARS + TABLES)}
    for layer in model[part].layers:
        within = {
            f"{paths[id(layer)]}.{name}": name
            for name, module in layer.named_modules()
            if isinstance(module, LINEARS + TABLES)
        }
        outside -= set(within)
        if id(layer) in chosen:
            inside |= {path: name for path, name in within.items() if isinstance(modules[path], LINEARS)}
    return inside, sorted(outside)


def _explain_missing_key(part: str, own: PartTuning, key: str, names: set[str]) -> str:
    """Return the message that a key names no linear, with the nearest names."""
    near = sorted(name for name in names if name.endswith(f".{key}"))[:3]  # PEFT takes the end of a name
    near = near or difflib.get_close_matches(key, names, n=3, cutoff=0.4)
    hint = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(sorted(names)[:12])}"
    where = "" if own.num_layers == -1 else f" in its last {own.num_layers} layers"
    return f"keys: the {_to_words(part)} has no linear named {key!r}{where}; {hint}."


def _check_dora(path: str, module: nn.Module, own: PartTuning) -> None:
    """Refuse modules for which mlx-lm has no DoRA layer."""
    if own.how != "dora":
        return
    if isinstance(module, SwitchLinear | QuantizedSwitchLinear):
        reason = "experts"
    elif isinstance(module, nn.QuantizedEmbedding):
        reason = "a packed table"
    elif is_packed(module) and 32 % module.bits:
        reason = f"weights of {module.bits} bits"
    else:
        return
    raise ConfigError(f"{path} is {reason}, for which there is no dora; take lora, or leave it out by keys.")


def _dims(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of outputs and inputs of a linear or table."""
    outputs, inputs = module["weight"].shape[-2:]
    return outputs, inputs * 32 // module.bits if is_packed(module) else inputs


def untrained_parts(model: MM1) -> tuple[str, ...]:
    """Return the parts that still have their random weights, as the configuration names them."""
    tuned = {part.replace("_", " ") for part in tuned_parts(model)}
    return tuple(part for part in model.config.untrained if part not in tuned)
