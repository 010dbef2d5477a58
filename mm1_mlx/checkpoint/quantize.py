"""Store weights in fewer bits: the decoder's, and on request those of the image encoder and the connector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.errors import ConfigError
from mm1_mlx.model.mm1 import MM1, count_parameters
from mm1_mlx.settings import BITS, PackingMode

GROUP_SIZES = (32, 64, 128)
MODE_SIZES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}  # the bits and group size of each
MORE_BITS = {2: 4, 3: 6, 4: 6, 5: 8, 6: 8, 8: 8}
EDGE = 8  # the first and the last eighth of the layers get more bits


@dataclass(frozen=True)
class Packing:
    """How weights are packed: bits, groups, mode, and which parts.

    Image encoders and connectors lose detail at 4 bits and are small, so they are packed only on request.

    Raises:
        ConfigError: MLX has no such number of bits, group size or mode.
    """

    bits: int | None = None  # None means 4, or the bits of the mode
    group_size: int | None = None  # weights that share a scale; None means 64, or those of the mode
    mode: PackingMode = "affine"
    mixed: bool = False  # more bits for the head, the embedding and the first and last layers
    encoder: bool = False
    connector: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(PackingMode):
            raise ConfigError(f"mode is {self.mode!r}, expected {', '.join(get_args(PackingMode))}.")
        own = (4 if self.bits is None else self.bits, 64 if self.group_size is None else self.group_size)
        bits, group_size = MODE_SIZES.get(self.mode, own)
        if self.bits not in (None, bits) or self.group_size not in (None, group_size):
            raise ConfigError(
                f"{self.mode} has {bits} bits in groups of {group_size}; drop the other numbers."
            )
        if self.mode == "affine" and (bits not in BITS or group_size not in GROUP_SIZES):
            raise ConfigError(
                f"{bits} bits in groups of {group_size}: expected {', '.join(map(str, BITS))} bits and groups of "
                f"{', '.join(map(str, GROUP_SIZES))}."
            )
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "group_size", group_size)

    @property
    def plain(self) -> dict[str, Any]:
        """The arguments of ``mx.quantize`` for most layers."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    @property
    def finer(self) -> dict[str, Any]:
        """The arguments of ``mx.quantize`` for the layers that matter most, where ``mixed`` is set."""
        if self.mode == "affine":
            return self.plain | {"bits": MORE_BITS[self.plain["bits"]]}
        return {"group_size": 32, "bits": 8, "mode": "mxfp8"}


def packing_plan(model: MM1, packing: Packing) -> dict[str, dict[str, Any]]:
    """Return which layers are packed, by path, and with which arguments of ``mx.quantize``.

    Raises:
        ConfigError: no layer can be packed.
    """
    plan = {}
    parts = {"decoder": True, "image_encoder": packing.encoder, "connector": packing.connector}
    for path, module in model.named_modules():
        part = path.partition(".")[0]
        if not parts.get(part) or not hasattr(module, "to_quantized"):
            continue
        wanted = model.quant_predicate(path, module) if part == "decoder" else True
        chosen = packing.finer if packing.mixed and _matters_most(model, path) else packing.plain
        if isinstance(wanted, dict):  # a decoder of mlx-lm that chooses the packing itself
            chosen = {"mode": "affine"} | wanted
        width = module["weight"].shape[-1]
        if width % chosen["group_size"] != 0:
            chosen = packing.plain
        if wanted and width % chosen["group_size"] == 0:
            plan[path] = chosen
    if not plan:
        advice = (
            "lower the group size" if packing.mode == "affine" else "take mode affine with a lower group size"
        )
        raise ConfigError(f"no layer of the decoder has a multiple of {packing.group_size} inputs; {advice}.")
    return plan


def quantization_config(packing: Packing, plan: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return ``config.json``'s ``quantization``: the plain packing, and the layers that differ from it."""
    return packing.plain | {path: values for path, values in plan.items() if values != packing.plain}


def stored_bits(model: MM1, weights: Mapping[str, mx.array]) -> float:
    """Return the bits on disk for each number of the unpacked model, where ``weights`` are those that are stored."""
    nbytes = sum(value.nbytes for value in weights.values())
    return (
        8 * nbytes / count_parameters(MM1(replace(model.config, quantization=None, quantization_config=None)))
    )


def quantize(model: MM1, *, bits: int = 4, group_size: int = 64, packing: Packing | None = None) -> MM1:
    """Pack the model's weights in place, and record that in ``model.config``.

    Floating-point weights of 32 bits become float16, so that a model loaded on a CPU is saved as small as others.

    Args:
        model: what to pack.
        bits: bits of a weight of the decoder; image encoder and connector keep 16.
        group_size: number of weights that share a scale.
        packing: all settings, in place of the other two.

    Raises:
        ConfigError: MLX has no such packing, no layer can be packed, or the model is quantized already.
    """
    packing = packing or Packing(bits, group_size)
    if model.config.quantization is not None:
        raise ConfigError("the model is quantized already; quantize the original.")
    plan = packing_plan(model, packing)
    if model.image_encoder.dtype == mx.float32:
        model.set_dtype(mx.float16)
    nn.quantize(model, class_predicate=lambda path, _: plan.get(path, False))
    described = quantization_config(packing, plan)
    model.config = replace(model.config, quantization=described, quantization_config=described)
    return model


def _matters_most(model: MM1, path: str) -> bool:
    """Say whether a layer is the head, the embedding, or in the first or last eighth of the decoder's layers."""
    names = path.split(".")
    if names[0] != "decoder":
        return False
    if "layers" not in names:
        return True
    edge = max(len(model.layers) // EDGE, 1)
    number = int(names[names.index("layers") + 1])
    return number < edge or number >= len(model.layers) - edge
