"""Fix which of two computations comes first, in the forward pass and in the backward pass.

Processes that wait for one another must do so in the same order everywhere. MLX chooses the order of a graph where
nothing prescribes it, and the graphs of two processes differ in pictures and lengths. So computations that wait for
other processes are chained, each after the one before it.
"""

from __future__ import annotations

import mlx.core as mx


@mx.custom_function
def compute_in_turn(first: mx.array, second: mx.array) -> tuple[mx.array, mx.array]:
    """Return both arrays; computing ``second`` waits for ``first``, and their gradients are computed in reverse order."""
    return first, mx.depends([second], [first])[0]


@compute_in_turn.vjp
def _backwards(_: object, cotangents: tuple[mx.array, mx.array], __: object) -> tuple[mx.array, mx.array]:
    of_first, of_second = cotangents
    return mx.depends([of_first], [of_second])[0], of_second
