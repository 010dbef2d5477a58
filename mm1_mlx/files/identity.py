"""Digests that tell one model's weights from another's: every value counts, at the cost of two sums each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.arrays import flatten

VISION = ("image_encoder", "connector")


def vision_identity(model: nn.Module) -> str:
    """Return a digest of the image encoder's and the connector's weights, which visual tokens depend on.

    It is computed once and kept with the model, as is ``model_identity``. Code that changes the weights must call
    ``forget_identity``.
    """
    return _kept_identity(model, "_vision_identity", VISION)


def model_identity(model: nn.Module) -> str:
    """Return a digest of all weights, which a KV cache depends on."""
    return _kept_identity(model, "_model_identity", (*VISION, "decoder"))


def forget_identity(model: nn.Module) -> None:
    """Drop the digests that were kept with the model, because its weights have changed."""
    for name in ("_model_identity", "_vision_identity"):
        if hasattr(model, name):
            delattr(model, name)


def tensors_identity(tensors: Mapping[str, mx.array]) -> str:
    """Return a digest of tensors and their names; it differs where a file is cut short or damaged."""
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(_describe(key, value))
    return digest.hexdigest()


def _kept_identity(model: nn.Module, name: str, parts: tuple[str, ...]) -> str:
    """Return the digest that the model keeps as attribute ``name``; compute it first where there is none."""
    if not hasattr(model, name):
        setattr(model, name, _compute_identity(model, parts))
    return getattr(model, name)


def _compute_identity(model: Any, parts: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for part in parts:
        for key, value in flatten(model[part].parameters()).items():
            digest.update(_describe(f"{part}.{key}", value))
        for path, module in model[part].named_modules():
            if "lora_a" in module:  # an adapter's scale is not a parameter
                digest.update(f"{part}.{path} {module.scale}".encode())
    return digest.hexdigest()


def _describe(key: str, value: mx.array) -> bytes:
    """Return a short description of a tensor: name, shape, type, and two sums over its bits, one weighted by place."""
    flat = value.reshape(-1)
    bits = flat.view(mx.uint32 if flat.dtype.size == 4 else mx.uint16 if flat.dtype.size == 2 else mx.uint8)
    bits = bits.astype(mx.uint32)
    places = mx.arange(1, bits.size + 1, dtype=mx.uint32)
    total, weighted = mx.sum(bits), mx.sum(bits * (places * 2654435761 | 1))
    return f"{key} {value.shape} {value.dtype} {total.item()} {weighted.item()}".encode()
