"""Change how modules are called: each is replaced by a stand-in of the same class that shares all its attributes.

So the keys of parameters stay the same, and mlx-lm's decoders, which call their layers themselves, find every attribute
that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_unflatten

Call = Callable[..., Any]  # takes the module's own function, the module, and the arguments of the call


def layers_of(model: Any) -> list[nn.Module]:
    """Return all layers of the image encoder and of the decoder."""
    return [*model.image_encoder.layers, *model.decoder.layers]


def replace_module(model: nn.Module, module: nn.Module, other: nn.Module) -> None:
    """Put ``other`` in every place where ``module`` stands in ``model``."""
    for path, found in model.named_modules():
        if found is module:
            model.update_modules(tree_unflatten([(path, other)]))


def make_stand_in(module: nn.Module, call: Call) -> nn.Module:
    """Return a module that can replace ``module`` and whose functions go through ``call``.

    The two share their attributes; their parameters and modules are the same until one of them is given others.
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
def redirect_calls(model: nn.Module, layers: Sequence[nn.Module], call: Call) -> Iterator[None]:
    """Make every call of one of ``layers`` go through ``call`` inside the block; afterwards put the layers back."""
    stand_ins = [make_stand_in(layer, call) for layer in layers]
    for layer, stand_in in zip(layers, stand_ins, strict=True):
        replace_module(model, layer, stand_in)
    try:
        yield
    finally:
        for layer, stand_in in zip(layers, stand_ins, strict=True):
            dict.update(layer, stand_in)
            replace_module(model, stand_in, layer)
