"""What MLX will compute, in which order, and the memory that it holds meanwhile; nothing is computed here.

MLX builds a graph before it computes anything. It is read here, ordered as MLX orders it, and walked: what a step
writes is held until the last step that reads it is done. MLX hands out steps faster than they are computed, so memory
comes free some steps late.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from mm1_mlx.errors import TrainingError

WIDTH = 20  # steps that MLX looks at side by side when it makes its order
IN_FLIGHT = 40  # steps handed out and not yet computed: 10 tasks of 10 calls each, two or three to a step
# These write nothing: what they give lies where their input lies.
VIEWS = {"AsStrided", "Broadcast", "Copy", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Split"}
VIEWS |= {"Squeeze", "StopGradient", "Transpose", "Unflatten", "View"}
# These write over an input of the same size that nothing else needs.
IN_PLACE = {"Abs", "Add", "AsType", "Cos", "Divide", "Exp", "Log", "Maximum", "Minimum", "Multiply"}
IN_PLACE |= {"Negative", "Power", "Rsqrt", "Select", "Sigmoid", "Sin", "SliceUpdate", "Sqrt", "Square"}
IN_PLACE |= {"Subtract", "Tanh"}


@dataclass(frozen=True)
class Step:
    """One operation on named arrays."""

    name: str  # as MLX calls it
    inputs: tuple[str, ...]
    outputs: dict[str, int]  # arrays and their bytes


@dataclass(frozen=True)
class Graph:
    """The steps from some arrays to others, in any order."""

    inputs: list[str]
    steps: list[Step]
    outputs: list[str]


def arrays_in(tree: Any) -> list[mx.array]:
    """The arrays of nested lists, tuples and mappings."""
    return [leaf for _, leaf in tree_flatten(tree) if isinstance(leaf, mx.array)]


def with_arrays(tree: Any, arrays: Iterable[mx.array]) -> Any:
    """``tree`` with others in the places of its arrays."""
    given = iter(arrays)
    return tree_map(lambda leaf: next(given) if isinstance(leaf, mx.array) else leaf, tree)


def traced(function: Callable[..., Any], *trees: Any) -> Graph:
    """The graph of ``function(*trees)``, from all arrays in ``trees`` to all in what it returns.

    Raises:
        TrainingError: it has an operation that MLX keeps to itself.
    """
    entries: list[dict[str, Any]] = []

    def flat(*arrays: mx.array) -> list[mx.array]:
        return arrays_in(function(*with_arrays(trees, arrays)))

    try:
        mx.export_function(entries.append, flat, *arrays_in(trees))
    except ValueError as error:
        raise TrainingError(
            f"the memory that this model takes cannot be foreseen ({error}); train it with --force."
        ) from None
    kinds = {entry["type"]: entry for entry in entries}
    steps = [
        Step(
            entry["name"],
            tuple(name for name, _, _ in entry["inputs"]),
            {name: math.prod(shape) * dtype.size for name, shape, dtype in entry["outputs"]},
        )
        for entry in entries
        if entry["type"] == "primitive"
    ]
    return Graph(
        [a[0] for a in kinds["inputs"]["inputs"]], steps, [a[0] for a in kinds["outputs"]["outputs"]]
    )


def in_order(graph: Graph) -> list[Step]:
    """The steps that lead to the outputs, as MLX computes them.

    It goes back from the outputs, level by level; where a level grows past ``WIDTH`` steps, the rest of it waits until
    those are followed to their end. A step is met when all that need it have been, and what is met last is computed
    first.
    """
    maker = {name: number for number, step in enumerate(graph.steps) for name in step.outputs}
    wanted = [[maker[name] for name in step.inputs if name in maker] for step in graph.steps]
    wanted.append([maker[name] for name in graph.outputs if name in maker])
    end = len(graph.steps)
    missing = _times_wanted(wanted, end)
    met, paused, place = [end], [], 0
    while place < len(met) or paused:
        if place < len(met):
            number, first = met[place], 0
            place += 1
        else:
            number, first = paused.pop()
        for at in range(first, len(wanted[number])):
            if len(met) - place >= WIDTH:
                paused.append((number, at))
                break
            other = wanted[number][at]
            missing[other] -= 1
            if not missing[other]:
                met.append(other)
    return [graph.steps[number] for number in reversed(met[1:])]


def _times_wanted(wanted: list[list[int]], end: int) -> Counter[int]:
    """How often each step is wanted by those that lead to ``end``."""
    counts: Counter[int] = Counter()
    stack = [end]
    while stack:
        for other in wanted[stack.pop()]:
            if not counts[other]:
                stack.append(other)
            counts[other] += 1
    return counts


class _Memory:
    """Buffers, and the arrays that lie in them."""

    def __init__(self) -> None:
        self.held = self.peak = 0
        self._buffer_of: dict[str, int] = {}
        self._arrays: dict[int, set[str]] = {}
        self._bytes: dict[int, int] = {}

    def write(self, name: str, size: int) -> None:
        number = len(self._arrays)
        self._buffer_of[name], self._arrays[number], self._bytes[number] = number, {name}, size
        self.held += size
        self.peak = max(self.peak, self.held)

    def share(self, name: str, source: str) -> None:
        """``name`` lies where ``source`` lies; arrays from outside are in no buffer."""
        if source in self._buffer_of:
            number = self._buffer_of[name] = self._buffer_of[source]
            self._arrays[number].add(name)

    def alone(self, name: str, size: int) -> bool:
        """Whether ``name`` fills a buffer of ``size`` bytes in which nothing else lies."""
        number = self._buffer_of.get(name)
        return number is not None and self._bytes[number] == size and len(self._arrays[number]) == 1

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._buffer_of:
                number = self._buffer_of.pop(name)
                self._arrays[number].discard(name)
                if not self._arrays[number]:
                    self.held -= self._bytes.pop(number)


def peak_bytes(graph: Graph, freed: Mapping[str, int] | None = None) -> int:
    """Bytes that computing ``graph`` holds at most beyond its inputs.

    Args:
        graph: to be computed at once.
        freed: inputs that nothing else needs, and their bytes: they go when they have been read.
    """
    steps, memory = in_order(graph), _Memory()
    readers = Counter(name for step in steps for name in step.inputs)
    last = {name: place for place, step in enumerate(steps) for name in step.inputs}
    last |= dict.fromkeys(graph.outputs, len(steps))
    for name, size in (freed or {}).items():
        memory.write(name, size)
    before = memory.held
    in_flight: deque[list[str]] = deque()
    for place, step in enumerate(steps):
        ended = [name for name in dict.fromkeys(step.inputs) if last[name] == place]
        for number, (name, size) in enumerate(step.outputs.items()):
            free = (n for n in ended if readers[n] == 1 and memory.alone(n, size))
            if step.name in VIEWS:
                memory.share(name, step.inputs[number if step.name == "Depends" else 0])
            elif step.name in IN_PLACE and (over := next(free, None)):
                memory.share(name, over)
                memory.forget([over])
            else:
                memory.write(name, size)
        in_flight.append(ended + [name for name in step.outputs if name not in last])
        if len(in_flight) > IN_FLIGHT:
            memory.forget(in_flight.popleft())
    return memory.peak - before
