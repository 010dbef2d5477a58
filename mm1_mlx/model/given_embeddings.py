"""Let a decoder of mlx-lm read embeddings: for one call, its table of tokens returns them instead of looking ids up.

Only some of mlx-lm's decoders take ``input_embeddings``; all of them look ids up in a table first. In the same way its
head computes logits of some places only, where no others are wanted. Table and head keep their places and parameters,
and only their classes become ones that know what is given. Each thread gives its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from mm1_mlx.arrays import to_number
from mm1_mlx.model.layer_calls import redirect_calls

PROBE_LENGTH = 2  # positions that the probe of the scale reads


class _Given(threading.local):
    """What is given for the present call of this thread, by the identity of a table or head."""

    def __init__(self):
        self.embeddings: dict[int, mx.array] = {}
        self.places: dict[int, mx.array] = {}


_given = _Given()


class _Reached(Exception):
    """The first layer was reached, with what it was given to read."""

    def __init__(self, states: mx.array):
        self.states = states


def read_embeddings(
    decoder: Any,
    table: nn.Module,
    embeddings: Float[mx.array, "B L D"],
    cache: list[Any] | None = None,
    places: Integer[mx.array, "P"] | None = None,
) -> Float[mx.array, "B Q V"]:
    """Return the logits of a decoder of mlx-lm after it has read ``embeddings`` as rows of its ``table``.

    Where ``places`` are given, only their logits are returned: Q is then P, and otherwise L.
    """
    head = getattr(decoder, "lm_head", None)
    head = head if isinstance(head, nn.Module) else table
    with give(table, embeddings), nullcontext() if places is None else _choose(head, places):
        logits = decoder(mx.zeros(embeddings.shape[:2], mx.int32), cache=cache)
    if places is None or logits.shape[1] == len(places):
        return logits
    return logits[:, places]  # a head of another name gives all


def give(table: nn.Module, embeddings: mx.array) -> AbstractContextManager[None]:
    """Have a table of tokens return ``embeddings`` inside the block, whatever ids it is asked for by this thread."""
    return _give(table, _given.embeddings, embeddings)


def _choose(head: nn.Module, places: mx.array) -> AbstractContextManager[None]:
    """Have a head, or the table that is one, compute the logits of ``places`` only, when this thread asks it."""
    return _give(head, _given.places, places)


@contextmanager
def _give(module: nn.Module, given: dict[int, mx.array], value: mx.array) -> Iterator[None]:
    if not hasattr(type(module), "knows_of"):
        object.__setattr__(module, "__class__", _make_kind(type(module)))
    before = given.get(id(module))
    given[id(module)] = value
    try:
        yield
    finally:
        if before is None:
            del given[id(module)]
        else:
            given[id(module)] = before


@cache
def _make_kind(kind: Any) -> type:
    """Return a class of tables and heads that asks for what is given first, and then does as ``kind``."""

    def call(self: Any, x: mx.array) -> mx.array:
        embeddings = _given.embeddings.get(id(self))
        if embeddings is not None:
            return embeddings
        return kind.__call__(self, chosen(self, x))

    def as_linear(self: Any, x: mx.array) -> mx.array:
        return kind.as_linear(self, chosen(self, x))

    def chosen(self: Any, x: mx.array) -> mx.array:
        places = _given.places.get(id(self))
        return x if places is None else x[:, places]

    methods = {"__call__": call, "knows_of": kind} | (
        {"as_linear": as_linear} if hasattr(kind, "as_linear") else {}
    )
    return type(kind.__name__, (kind,), methods)


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
