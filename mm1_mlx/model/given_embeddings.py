"""Let a decoder of mlx-lm read embeddings: for one call, its table of tokens returns them instead of looking ids up.

Only some of mlx-lm's decoders take ``input_embeddings``; all of them look ids up in a table first. The table keeps its
place and its parameters, and only its class becomes one that knows of given embeddings. Each thread gives its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from mm1_mlx.arrays import to_number
from mm1_mlx.model.layer_calls import redirect_calls

PROBE_LENGTH = 2  # positions that the probe of the scale reads


class _Given(threading.local):
    """What the tables of this thread return for the present call, by table."""

    def __init__(self):
        self.embeddings: dict[int, mx.array] = {}


_given = _Given()


class _Reached(Exception):
    """The first layer was reached, with what it was given to read."""

    def __init__(self, states: mx.array):
        self.states = states


def read_embeddings(
    decoder: Any, table: nn.Module, embeddings: Float[mx.array, "B L D"], cache: list[Any] | None = None
) -> Float[mx.array, "B L V"]:
    """Return the logits of a decoder of mlx-lm after it has read ``embeddings`` as rows of its ``table``."""
    with give(table, embeddings):
        return decoder(mx.zeros(embeddings.shape[:2], mx.int32), cache=cache)


@contextmanager
def give(table: nn.Module, embeddings: mx.array) -> Iterator[None]:
    """Have a table of tokens return ``embeddings`` inside the block, whatever ids it is asked for by this thread."""
    kind = type(table)
    if not hasattr(kind, "looks_up"):
        object.__setattr__(table, "__class__", _make_kind(kind))
    before = _given.embeddings.get(id(table))
    _given.embeddings[id(table)] = embeddings
    try:
        yield
    finally:
        if before is None:
            del _given.embeddings[id(table)]
        else:
            _given.embeddings[id(table)] = before


@cache
def _make_kind(kind: type) -> type:
    """Return a class of tables that asks for given embeddings first, and then does as ``kind``."""

    def call(self: Any, ids: mx.array) -> mx.array:
        given = _given.embeddings.get(id(self))
        return kind.__call__(self, ids) if given is None else given

    return type(kind.__name__, (kind,), {"__call__": call, "looks_up": kind})


def measure_scale(decoder: Any, table: nn.Module, dims: int) -> float:
    """Return the number by which a decoder multiplies rows of its table before its first layer: 1 for most.

    Gemma and Granite multiply. A decoder that treats them in another way, such as by a norm, gives 1.
    """
    one, two = (_reach_first_layer(decoder, table, value, dims) for value in (1.0, 2.0))
    scale = to_number(one.flatten()[0])
    scaled = mx.all(one == scale) & mx.allclose(two, 2 * one)
    return scale if to_number(scaled) and scale > 0 else 1.0


def _reach_first_layer(decoder: Any, table: nn.Module, value: float, dims: int) -> mx.array:
    def stop(own: Any, layer: Any, states: mx.array, *args: Any, **options: Any) -> mx.array:
        raise _Reached(states)

    embeddings = mx.full((1, PROBE_LENGTH, dims), value)
    try:
        with redirect_calls(decoder, decoder.layers[:1], stop):
            read_embeddings(decoder, table, embeddings)
    except _Reached as reached:
        return reached.states.astype(mx.float32)
    return embeddings
