"""A layer's call that can be made twice: the backward pass computes again what the forward pass has not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

ARRAY = object()  # stands where a result has an array


class Again:
    """A call that can be made twice, as a function of the arrays through which gradients flow.

    The second time it draws the random numbers of the first, so that dropout drops the same.

    Args:
        function: a method of ``layer``.
        layer: that computes.
        args: of the call; arrays of numbers with a point, wherever in there, are its ``inputs``.
        options: likewise.
    """

    def __init__(
        self, function: Callable[..., Any], layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
    ):
        self._function, self._layer, self._arguments = function, layer, (args, options)
        self._first_seed: int | None = None
        self._form: Any = None
        self.inputs = [leaf for _, leaf in tree_flatten(self._arguments) if _carries_gradient(leaf)]

    def __call__(self, inputs: list[mx.array]) -> list[mx.array]:
        """All arrays of the result, flat."""
        given = iter(inputs)
        args, options = tree_map(
            lambda leaf: next(given) if _carries_gradient(leaf) else leaf, self._arguments
        )
        seed = _random_seed()
        if self._first_seed is None:
            self._first_seed = seed
            found = self._function(self._layer, *args, **options)
        else:
            mx.random.seed(self._first_seed)
            found = self._function(self._layer, *args, **options)
            mx.random.seed(seed)
        self._form = tree_map(lambda leaf: ARRAY if isinstance(leaf, mx.array) else leaf, found)
        return [leaf for _, leaf in tree_flatten(found) if isinstance(leaf, mx.array)]

    def result(self, arrays: list[mx.array]) -> Any:
        """The result of the call in its own form."""
        made = iter(arrays)
        return tree_map(lambda leaf: next(made) if leaf is ARRAY else leaf, self._form)


def _carries_gradient(leaf: Any) -> bool:
    return isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating)


def _random_seed() -> int:
    """The seed that gives the random numbers which come next."""
    high, low = mx.random.state[0].tolist()
    return high << 32 | low
