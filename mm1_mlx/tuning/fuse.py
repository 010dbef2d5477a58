"""Fuse adapters into the weights that they adapt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.model.mlx_lm_parts import AdapterLayer, SwitchLinear
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.tuning import adapters


def fuse_adapters(model: MM1, *, dequantize: bool = False) -> None:
    """Add adapters to the weights that they adapt; the model then has no adapters.

    Args:
        model: with adapters, or prepared and trained.
        dequantize: unpack all packed weights; otherwise weights that were packed are packed again, which rounds them.
    """
    dtype = model.image_encoder.dtype
    layers = adapters.adapter_layers(model)
    adapters.replace_modules(
        model, {path: fuse_layer(layer, dtype, pack=not dequantize) for path, layer in layers.items()}
    )
    model.config = replace(model.config, untrained=adapters.untrained_parts(model))
    if dequantize:
        packed = {path: module for path, module in model.named_modules() if adapters.is_packed(module)}
        adapters.replace_modules(
            model, {path: unpack_layer(module, dtype) for path, module in packed.items()}
        )
        model.config = replace(model.config, quantization=None, quantization_config=None)
    mx.eval(model.parameters())
    adapters.take_off(model)
    if hasattr(model, "_before"):
        del model._before


def fuse_layer(layer: AdapterLayer, dtype: mx.Dtype, *, pack: bool) -> nn.Module:
    """Return a linear or table with its adapter's change added, computed in float32 and rounded once.

    Args:
        layer: a layer with an adapter.
        dtype: type of weights that were packed and stay unpack_layer.
        pack: pack weights again that were packed.
    """
    name = adapters.inner_name(layer)
    own = layer[name]
    layer[name] = unpack_layer(own, mx.float32)
    made: Any = layer.fuse()
    layer[name] = own
    made.weight = made.weight.astype(dtype if adapters.is_packed(own) else own.weight.dtype)
    if adapters.is_packed(own) and pack:
        return made.to_quantized(group_size=own.group_size, bits=own.bits, mode=own.mode)
    return made


def unpack_layer(module: nn.Module, dtype: mx.Dtype) -> nn.Module:
    """Return the same linear or table with a plain, unpack_layer weight."""
    weight = module["weight"]
    if adapters.is_packed(module):
        weight = mx.dequantize(
            weight,
            module["scales"],
            module.get("biases"),
            group_size=module.group_size,
            bits=module.bits,
            mode=module.mode,
            dtype=dtype,
        )
    if isinstance(module, adapters.TABLES):
        plain = nn.Embedding(*weight.shape)
    else:
        kind = SwitchLinear if weight.ndim == 3 else nn.Linear
        plain = kind(*reversed(weight.shape), bias="bias" in module)
    plain["weight"] = weight.astype(dtype)
    if "bias" in module:
        plain["bias"] = module["bias"]
    return plain
