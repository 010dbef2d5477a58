"""The work of a computation, counted from the graph that MLX builds for it, and so for any decoder.

FLOPs are two for each multiply-add of the matrix products, attention (whole, not only its causal half) and
convolutions. Bytes are what every operation reads and writes, weights included; views (transposes, slices) are free,
but the reshape of a transposed array copies it, and a table lookup reads the rows that it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mm1_mlx.sizing.graph import Array, trace

PRODUCTS = {"AddMM", "GatherMM", "GatherQMM", "Matmul", "QuantizedMatmul"}


@dataclass(frozen=True)
class Work:
    """The least work that a computation has to do."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __sub__(self, other: Work) -> Work:
        return Work(self.flops - other.flops, self.bytes - other.bytes)


def count_work(function: Callable[..., Any], *inputs: mx.array) -> Work:
    """Return the work of ``function(*inputs)``; nothing is computed. Weights must be evaluated before."""
    work = Work()
    behind: dict[
        str, int
    ] = {}  # bytes of the memory that a view shows; a broadcast array has only what it repeats

    def size(array: Array) -> int:
        return behind.get(array.name, array.nbytes)

    for step in trace(function, *inputs).steps:
        if step.is_view:
            behind |= {array.name: min(size(array), size(step.inputs[0])) for array in step.outputs}
        else:
            flops = flops_of(step.name, [array.shape for array in step.inputs], step.outputs[0].shape)
            work += Work(flops, bytes_of(step.name, step.inputs, step.outputs, size))
    return work


def flops_of(name: str, read: list[tuple[int, ...]], written: tuple[int, ...]) -> int:
    """Return the FLOPs of one operation, from the shapes that it reads and writes."""
    if name in PRODUCTS:
        return 2 * math.prod(written) * read[0][-1]
    if name == "Convolution":
        return 2 * math.prod(written) * math.prod(read[1][1:])
    if name == "ScaledDotProductAttention":
        queries, keys, values = read[:3]
        return 2 * math.prod(queries[:-1]) * keys[-2] * (queries[-1] + values[-1])
    return 0


def bytes_of(
    name: str, read: tuple[Array, ...], written: tuple[Array, ...], size: Callable[[Array], int]
) -> int:
    """Return the bytes that one operation reads and writes."""
    result = sum(map(size, written))
    if name in PRODUCTS and name.startswith("Gather"):  # experts, of which only the chosen ones are read
        there = read[1].shape[0]
        chosen = min(math.prod(read[-1].shape), there)
        return size(read[0]) + sum(map(size, read[1:-2])) * chosen // there + result
    if name.startswith("Gather"):  # a table lookup
        return 2 * result + sum(map(size, read[1:]))
    if name.endswith("SliceUpdate"):  # in place, as in a KV cache
        return 2 * size(read[1])
    return sum(map(size, read)) + result
