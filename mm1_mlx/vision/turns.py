"""Fix which of two computations comes first, in the forward pass and in the backward pass.

Processes that wait for one another must do so in the same order everywhere. MLX chooses the order of a graph where
nothing prescribes it, and the graphs of two processes differ in pictures and lengths. So computations that wait for
other processes are chained, each after the one before it.
"""

from __future__ import annotations

from typing import cast

import mlx.core as mx


def _chain(first: mx.array, second: mx.array) -> tuple[mx.array, mx.array]:
    return first, mx.depends([second], [first])[0]


def _chain_gradients(
    _: object, cotangents: tuple[mx.array, mx.array], __: object
) -> tuple[mx.array, mx.array]:
    of_first, of_second = cotangents
    return mx.depends([of_first], [of_second])[0], of_second


_chained = mx.custom_function(_chain)
_chained.vjp(_chain_gradients)


def compute_in_turn(first: mx.array, second: mx.array) -> tuple[mx.array, mx.array]:
    """Return both arrays; computing ``second`` waits for ``first``, and their gradients are computed in reverse order."""
    return cast("tuple[mx.array, mx.array]", _chained(first, second))  # MLX annotates the result as an object
