"""What tells one model's weights from another's: every value counts, at the price of two sums each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

VISION = ("image_encoder", "connector")


def vision_identity(model: nn.Module) -> str:
    """Return what stands for the image encoder and the connector, which make visual tokens.

    It is computed once for a model and kept with it, as is ``model_identity``: whoever changes the weights calls
    ``forget_identity``.
    """
    if not hasattr(model, "_vision_identity"):
        model._vision_identity = _identity(model, VISION)
    return model._vision_identity


def model_identity(model: nn.Module) -> str:
    """Return what stands for all weights, which make a KV cache."""
    if not hasattr(model, "_model_identity"):
        model._model_identity = _identity(model, (*VISION, "decoder"))
    return model._model_identity


def forget_identity(model: nn.Module) -> None:
    """Let go of what was kept of the weights, which changed."""
    for name in ("_model_identity", "_vision_identity"):
        if hasattr(model, name):
            delattr(model, name)


def tensors_identity(tensors: Mapping[str, mx.array]) -> str:
    """Return what stands for tensors by name: those of a torn or damaged file have another."""
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(_described(key, value))
    return digest.hexdigest()


def _identity(model: nn.Module, parts: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for part in parts:
        for key, value in tree_flatten(model[part].parameters()):
            digest.update(_described(f"{part}.{key}", value))
        for path, module in model[part].named_modules():
            if "lora_a" in module:  # an adapter's scale is no parameter
                digest.update(f"{part}.{path} {module.scale}".encode())
    return digest.hexdigest()


def _described(key: str, value: mx.array) -> bytes:
    """Return a tensor in short: its name, shape, type, and two sums over its bits, one of them weighted by place."""
    flat = value.reshape(-1)
    bits = flat.view(mx.uint32 if flat.dtype.size == 4 else mx.uint16 if flat.dtype.size == 2 else mx.uint8)
    bits = bits.astype(mx.uint32)
    places = mx.arange(1, bits.size + 1, dtype=mx.uint32)
    total, weighted = mx.sum(bits), mx.sum(bits * (places * 2654435761 | 1))
    return f"{key} {value.shape} {value.dtype} {total.item()} {weighted.item()}".encode()
