"""Modules that are called in another way: in the place of each stands one of the same kind, with all that it holds.

So keys stay as they are, and decoders of mlx-lm, which call their layers themselves, find what they read of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_unflatten

Call = Callable[..., Any]  # takes the module's own function, the module, and what that was called with


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return all layers of the image encoder and of the decoder."""
    return [*model.image_encoder.layers, *model.decoder.layers]


def put(model: nn.Module, module: nn.Module, other: nn.Module) -> None:
    """Put ``other`` in every place of ``module``."""
    for path, found in model.named_modules():
        if found is module:
            model.update_modules(tree_unflatten([(path, other)]))


def called_by(module: nn.Module, call: Call) -> nn.Module:
    """Return what may stand in the place of ``module``: its functions are called by ``call``.

    Attributes are shared; parameters and modules are the same until one of the two gets others.
    """

    def method(name: str) -> Callable[..., Any]:
        own = getattr(type(module), name)
        return lambda self, *args, **options: call(own, self, *args, **options)

    names = [name for name in ("__call__", "as_linear") if hasattr(type(module), name)]
    kind = type(type(module).__name__, (type(module),), {name: method(name) for name in names})
    made = kind.__new__(kind)
    object.__setattr__(made, "__dict__", vars(module))
    dict.update(made, module)
    return made


@contextmanager
def layers_called_by(model: nn.Module, layers: Sequence[nn.Module], call: Call) -> Iterator[None]:
    """Inside, calling one of ``layers`` is ``call``; afterwards they stand in their places again."""
    stand_ins = [called_by(layer, call) for layer in layers]
    for layer, stand_in in zip(layers, stand_ins, strict=True):
        put(model, layer, stand_in)
    try:
        yield
    finally:
        for layer, stand_in in zip(layers, stand_ins, strict=True):
            dict.update(layer, stand_in)
            put(model, stand_in, layer)
