"""The graph of what MLX will compute, and the memory that this will need; nothing is computed here.

MLX builds a graph before it computes anything, and can export it. The export is read here, and followed step by step:
memory that a step writes is needed until the last step that reads it is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

LATE = 6  # steps after which memory becomes free: MLX submits steps faster than they are computed
# These write nothing: their output has the memory of their input.
VIEWS = {"AsStrided", "Broadcast", "Copy", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Split"}
VIEWS |= {"Squeeze", "StopGradient", "Transpose", "Unflatten", "View"}
RESHAPES = {"Flatten", "Reshape"}  # these copy a transposed array after all


class Array(NamedTuple):
    """An array of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.size


@dataclass(frozen=True)
class Step:
    """One operation of a graph."""

    name: str  # MLX's name for it
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    is_view: bool  # whether its outputs have the memory of its inputs


@dataclass(frozen=True)
class Graph:
    """The steps that compute some arrays from others, in an order in which they can be computed."""

    inputs: list[Array]
    steps: list[Step]
    outputs: list[Array]


def arrays_in(tree: Any) -> list[mx.array]:
    """Return the arrays of nested lists, tuples and mappings."""
    return [leaf for _, leaf in tree_flatten(tree) if isinstance(leaf, mx.array)]


def replace_arrays(tree: Any, arrays: Iterable[mx.array]) -> Any:
    """Return a copy of ``tree`` with the given arrays in the places of its own."""
    given = iter(arrays)
    return tree_map(lambda leaf: next(given) if isinstance(leaf, mx.array) else leaf, tree)


def trace(function: Callable[..., Any], *trees: Any) -> Graph:
    """Return the graph of ``function(*trees)``, from all arrays in ``trees`` to all arrays in its result.

    Other weights that the function uses must be evaluated before, or else the graph includes making them.

    Raises:
        ValueError: the function has an operation that MLX does not export.
    """
    entries: list[dict[str, Any]] = []

    def flat(*arrays: mx.array) -> list[mx.array]:
        return arrays_in(function(*replace_arrays(trees, arrays)))

    mx.export_function(entries.append, flat, *arrays_in(trees))
    ends = {entry["type"]: entry for entry in entries}
    steps, transposed = [], set()
    for entry in entries:
        if entry["type"] == "primitive":
            inputs, outputs = (tuple(Array(*a) for a in entry[k]) for k in ("inputs", "outputs"))
            steps.append(_make_step(entry["name"], inputs, outputs, transposed))
    return Graph(
        [Array(*array) for array in ends["inputs"]["inputs"]],
        steps,
        [Array(*array) for array in ends["outputs"]["outputs"]],
    )


def _make_step(
    name: str, inputs: tuple[Array, ...], outputs: tuple[Array, ...], transposed: set[str]
) -> Step:
    """Make a step, and add the names of the arrays that it transposes to ``transposed``."""
    of_transposed = bool(inputs) and inputs[0].name in transposed
    is_view = name in VIEWS and not (name in RESHAPES and of_transposed)
    if is_view and (name == "Transpose" or of_transposed):
        transposed.update(array.name for array in outputs)
    return Step(name, inputs, outputs, is_view)


def held_bytes(graph: Graph, *, inputs_go: bool = False) -> list[int]:
    """Return for each step the bytes that are in use while it is computed, besides the graph's inputs.

    Args:
        graph: a graph that is computed at once.
        inputs_go: count the inputs too, and free each one after the last step that reads it.
    """
    lies_in: dict[str, str] = {}  # for each array, the array that was written to the same memory
    last: dict[str, int] = {}  # for each written array, the last step that reads it
    change = [0] * (len(graph.steps) + LATE + 2)  # change in the bytes in use, by step

    def write(array: Array, place: int) -> None:
        lies_in[array.name], last[array.name], sizes[array.name] = array.name, place, array.nbytes

    sizes: dict[str, int] = {}
    for array in graph.inputs if inputs_go else ():
        write(array, 0)
    for place, step in enumerate(graph.steps):
        for number, array in enumerate(step.outputs):
            if not step.is_view:
                write(array, place)
                change[place] += array.nbytes
                continue
            source = step.inputs[number if step.name == "Depends" else 0].name
            if source in lies_in:  # otherwise it is an array from outside, which is not counted
                lies_in[array.name] = lies_in[source]
        last |= {lies_in[array.name]: place for array in step.inputs if array.name in lies_in}
    last |= {lies_in[array.name]: len(graph.steps) for array in graph.outputs if array.name in lies_in}
    for name, place in last.items():
        change[place + LATE + 1] -= sizes[name]
    return list(accumulate(change))[: len(graph.steps)]
