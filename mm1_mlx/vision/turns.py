"""Which of two computations goes first, in the forward pass and in the backward pass.

Processes that wait for one another must do so in the same order everywhere. MLX computes a graph in an order of its
own where nothing prescribes one, and the graphs of two processes differ: other pictures, other lengths. What waits
for other processes is therefore put in a row, each after the one before it.
"""

from __future__ import annotations

import mlx.core as mx


@mx.custom_function
def in_turn(first: mx.array, second: mx.array) -> tuple[mx.array, mx.array]:
    """Return both as they are. What reads ``second`` waits for ``first``; backwards it is the other way round."""
    return first, mx.depends([second], [first])[0]


@in_turn.vjp
def _backwards(_: object, cotangents: tuple[mx.array, mx.array], __: object) -> tuple[mx.array, mx.array]:
    of_first, of_second = cotangents
    return mx.depends([of_first], [of_second])[0], of_second
