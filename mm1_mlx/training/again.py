"""A layer's call that can be made twice: the backward pass computes again what the forward pass did not keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from mm1_mlx.arrays import to_list

ARRAY = object()  # marks the places of arrays in the form of a result


class Again:
    """A call that can be made twice, as a function of the arrays through which gradients flow.

    The second call draws the same random numbers as the first, so that dropout drops the same values.

    Args:
        function: a method of ``layer``.
        layer: the layer that computes.
        args: positional arguments of the call. All floating-point arrays in them, however nested, are its ``inputs``.
        options: keyword arguments of the call, treated in the same way.
    """

    def __init__(
        self, function: Callable[..., Any], layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
    ):
        self._function, self._layer, self._arguments = function, layer, (args, options)
        self._first_seed: int | None = None
        self._form: Any = None
        self.inputs = [leaf for _, leaf in tree_flatten(self._arguments) if _carries_gradient(leaf)]

    def __call__(self, inputs: list[mx.array]) -> list[mx.array]:
        """Call the layer with these inputs, and return all arrays of the result as a flat list."""
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
        """Return the result of the call in its original form, with ``arrays`` in its places."""
        made = iter(arrays)
        return tree_map(lambda leaf: next(made) if leaf is ARRAY else leaf, self._form)


def _carries_gradient(leaf: Any) -> TypeGuard[mx.array]:
    return isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating)


def _random_seed() -> int:
    """Return the seed that would give the random numbers which come next."""
    state: Any = mx.random.state  # MLX annotates it as an object; it is indexed like a list
    high, low = to_list(state[0])
    return high << 32 | low
