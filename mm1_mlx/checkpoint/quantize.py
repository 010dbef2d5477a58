"""Fewer bits per weight, in the decoder; image encoder and connector keep 16."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import quantize_model

from mm1_mlx.errors import ConfigError
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import BITS

GROUP_SIZES = (32, 64, 128)


def quantize(model: MM1, *, bits: int = 4, group_size: int = 64) -> MM1:
    """Pack the decoder's weights in place, and say so in ``model.config``.

    Floating-point weights of 32 bits become float16: a model loaded on a CPU is saved as small as any.

    Raises:
        ConfigError: MLX has no such number of bits or group size, no layer of the decoder has a multiple of
            ``group_size`` inputs, or the model is quantized already.
    """
    if bits not in BITS or group_size not in GROUP_SIZES:
        raise ConfigError(
            f"{bits} bits in groups of {group_size}: expected {', '.join(map(str, BITS))} bits and groups of "
            f"{', '.join(map(str, GROUP_SIZES))}."
        )
    if model.config.quantization is not None:
        raise ConfigError("the model is quantized already; quantize the original.")
    if not any(_can_be_packed(model, path, module, group_size) for path, module in model.named_modules()):
        raise ConfigError(
            f"no layer of the decoder has a multiple of {group_size} inputs; lower the group size."
        )
    if model.image_encoder.position_embedding.dtype == mx.float32:
        model.set_dtype(mx.float16)
    with contextlib.redirect_stdout(io.StringIO()):  # mlx-lm prints a note there
        _, values = quantize_model(model, model.config.to_dict(), group_size, bits)
    packing = values["quantization"]
    model.config = replace(model.config, quantization=packing, quantization_config=packing)
    return model


def _can_be_packed(model: MM1, path: str, module: nn.Module, group_size: int) -> bool:
    fits = hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size == 0
    return fits and bool(model.quant_predicate(path, module))
