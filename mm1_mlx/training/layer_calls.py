"""Layers that are called in another way for a while: the objects stay, and so do their weights' keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn

from mm1_mlx.model.mm1 import MM1

Call = Callable[..., Any]


def layers_of(model: MM1) -> list[nn.Module]:
    """All of the image encoder and of the decoder."""
    return [*model.image_encoder.layers, *model.decoder.layers]


def with_methods(own: type[nn.Module], *marks: type, **methods: Call) -> type[nn.Module]:
    """A kind of layer like ``own`` but for its ``methods``; ``marks`` tell it from others."""
    return type(own.__name__, (own, *marks), methods)


@contextmanager
def called_by(
    layers: Sequence[nn.Module], made: Callable[[type[nn.Module]], Call], *marks: type
) -> Iterator[None]:
    """Inside, calling a layer calls what is ``made`` of its class."""
    classes = [type(layer) for layer in layers]
    for layer, own in zip(layers, classes, strict=True):
        layer.__class__ = with_methods(own, *marks, __call__=made(own))
    try:
        yield
    finally:
        for layer, own in zip(layers, classes, strict=True):
            layer.__class__ = own
