"""What MLX will compute, and the memory that it holds meanwhile; nothing is computed here.

MLX builds a graph before it computes anything, and exports it. It is read here and walked: what a step writes is held
until the last step that reads it is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

LATE = 6  # steps: MLX hands them out faster than they are computed, so memory comes free some steps late
# These write nothing: what they give lies where their input lies.
VIEWS = {"AsStrided", "Broadcast", "Copy", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Split"}
VIEWS |= {"Squeeze", "StopGradient", "Transpose", "Unflatten", "View"}
RESHAPES = {"Flatten", "Reshape"}  # but of a transposed array they make a copy


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
    """One operation."""

    name: str  # as MLX calls it
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    is_view: bool  # it writes nothing


@dataclass(frozen=True)
class Graph:
    """The steps from some arrays to others, in an order in which they can be computed."""

    inputs: list[Array]
    steps: list[Step]
    outputs: list[Array]


def arrays_in(tree: Any) -> list[mx.array]:
    """Return the arrays of nested lists, tuples and mappings."""
    return [leaf for _, leaf in tree_flatten(tree) if isinstance(leaf, mx.array)]


def with_arrays(tree: Any, arrays: Iterable[mx.array]) -> Any:
    """Return ``tree`` with others in the places of its arrays."""
    given = iter(arrays)
    return tree_map(lambda leaf: next(given) if isinstance(leaf, mx.array) else leaf, tree)


def traced(function: Callable[..., Any], *trees: Any) -> Graph:
    """Return the graph of ``function(*trees)``, from all arrays in ``trees`` to all in what it returns.

    Weights that it uses beside them are to be evaluated before, or their making is part of the graph.

    Raises:
        ValueError: it has an operation that MLX keeps to itself.
    """
    entries: list[dict[str, Any]] = []

    def flat(*arrays: mx.array) -> list[mx.array]:
        return arrays_in(function(*with_arrays(trees, arrays)))

    mx.export_function(entries.append, flat, *arrays_in(trees))
    ends = {entry["type"]: entry for entry in entries}
    steps, transposed = [], set()
    for entry in entries:
        if entry["type"] == "primitive":
            name, *arrays = (
                entry["name"],
                *(tuple(Array(*a) for a in entry[k]) for k in ("inputs", "outputs")),
            )
            steps.append(_step(name, *arrays, transposed))
    return Graph(
        [Array(*array) for array in ends["inputs"]["inputs"]],
        steps,
        [Array(*array) for array in ends["outputs"]["outputs"]],
    )


def _step(name: str, inputs: tuple[Array, ...], outputs: tuple[Array, ...], transposed: set[str]) -> Step:
    """Return a step; ``transposed`` grows by the names of what it transposes."""
    of_transposed = bool(inputs) and inputs[0].name in transposed
    is_view = name in VIEWS and not (name in RESHAPES and of_transposed)
    if is_view and (name == "Transpose" or of_transposed):
        transposed.update(array.name for array in outputs)
    return Step(name, inputs, outputs, is_view)


def held_bytes(graph: Graph, *, inputs_go: bool = False) -> list[int]:
    """Return for each step the bytes that are held while it is computed, beyond the graph's inputs.

    Args:
        graph: to be computed at once.
        inputs_go: nothing else needs its inputs: they go when they have been read.
    """
    lies_in: dict[str, str] = {}  # for each array the one that was written where it lies
    last: dict[str, int] = {}  # the step that last reads what was written
    change = [0] * (len(graph.steps) + LATE + 2)  # in what is held

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
            if source in lies_in:  # what comes from outside is held by others
                lies_in[array.name] = lies_in[source]
        last |= {lies_in[array.name]: place for array in step.inputs if array.name in lies_in}
    last |= {lies_in[array.name]: len(graph.steps) for array in graph.outputs if array.name in lies_in}
    for name, place in last.items():
        change[place + LATE + 1] -= sizes[name]
    return list(accumulate(change))[: len(graph.steps)]
