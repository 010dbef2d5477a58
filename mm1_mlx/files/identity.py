"""What tells one model's weights from another's: every value counts, at the price of two sums each."""

from __future__ import annotations

import hashlib
import json

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

# Computed once for a model and kept with it; tuning the weights in place calls for new caches.


def vision_identity(model: nn.Module) -> str:
    """Of the image encoder and the connector, which make visual tokens."""
    if not hasattr(model, "_vision_identity"):
        model._vision_identity = _identity(model, ("image_encoder", "connector"))
    return model._vision_identity


def model_identity(model: nn.Module) -> str:
    """Of all weights, which make a KV cache."""
    if not hasattr(model, "_model_identity"):
        model._model_identity = _identity(model, ("image_encoder", "connector", "decoder"))
    return model._model_identity


def _identity(model: nn.Module, parts: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for part in parts:
        for key, value in tree_flatten(model[part].parameters()):
            digest.update(described(f"{part}.{key}", value))
        for path, module in model[part].named_modules():
            if "lora_a" in module:  # an adapter's scale is no parameter
                digest.update(f"{part}.{path} {module.scale}".encode())
    return digest.hexdigest()


def described(key: str, value: mx.array) -> bytes:
    """A tensor in short: its name, shape, type, and two sums over all its values."""
    return f"{key} {value.shape} {value.dtype} {_fingerprint(value)}".encode()


def _fingerprint(value: mx.array) -> str:
    """Two sums over the bits, one of them weighted by place."""
    flat = value.reshape(-1)
    bits = flat.view(mx.uint32 if flat.dtype.size == 4 else mx.uint16 if flat.dtype.size == 2 else mx.uint8)
    bits = bits.astype(mx.uint32)
    places = mx.arange(1, bits.size + 1, dtype=mx.uint32)
    total, weighted = mx.sum(bits), mx.sum(bits * (places * 2654435761 | 1))
    return f"{total.item()} {weighted.item()}"
