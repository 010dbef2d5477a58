"""What the processes of a run exchange: numbers to agree on, sums of arrays, and the rows of matrices.

Rows lie in order, as evenly as they go: every process has ``rows // size`` of a matrix or one more. What travels has
as many rows from everyone, so that a process with fewer sends its last one twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Integer
from mlx.utils import tree_map


class Processes:
    """All processes that train together; this one is number ``rank`` of ``size``."""

    def __init__(self) -> None:
        self.group = mx.distributed.init()
        self.rank, self.size = self.group.rank(), self.group.size()

    def largest(self, number: int) -> int:
        """Of all processes."""
        return int(mx.distributed.all_max(mx.array(number), group=self.group).item())

    def summed(self, *numbers: int | float) -> list[int | float]:
        """Each number, added up over all processes."""
        if self.size == 1:
            return list(numbers)
        sums = self.sum(mx.array(numbers, dtype=mx.float32)).tolist()
        return [type(number)(total) for number, total in zip(numbers, sums, strict=True)]

    def sum(self, arrays: Any) -> Any:
        """Each array of a tree, added up over all processes."""
        return tree_map(lambda array: mx.distributed.all_sum(array, group=self.group), arrays)

    def cut(self, whole: mx.array) -> mx.array:
        """The rows of this process. Taken, not sliced: a slice would keep the whole matrix in memory."""
        return _taken(whole, np.unique(_rows_of_each(len(whole), self.size)[self.rank]))

    def rows_of_all(self, rows: mx.array) -> list[mx.array]:
        """The rows of each process, which may have different numbers of them; the same everywhere, in order."""
        if self.size == 1:
            return [rows]
        counts = self.summed(*(len(rows) * (rank == self.rank) for rank in range(self.size)))
        most, rest = max(counts, default=0), rows.shape[1:]
        if most == 0:
            return [rows] * self.size
        padded = mx.concatenate([rows, mx.zeros((most - len(rows), *rest), rows.dtype)])
        every = mx.distributed.all_gather(padded, group=self.group).reshape(self.size, most, *rest)
        return [every[rank, :count] for rank, count in enumerate(counts)]

    def gather(
        self, parts: Sequence[mx.array], rows: Sequence[int], after: Sequence[mx.array] = ()
    ) -> list[mx.array]:
        """Whole matrices of so many ``rows``, from each process's part of them; ``after`` is computed before."""

        def filled(part: mx.array, count: int) -> mx.array:
            if count % self.size == 0:
                return part
            mine = _rows_of_each(count, self.size)[self.rank]
            return _taken(part, mine - mine[0])

        def in_place(stack: mx.array, count: int) -> mx.array:
            if count % self.size == 0:
                return stack
            return _taken(stack, np.unique(_rows_of_each(count, self.size), return_index=True)[1])

        stacks = self._exchange(list(map(filled, parts, rows)), 1, self._from_all, after)
        return list(map(in_place, stacks, rows))

    def scatter(self, wholes: Sequence[mx.array]) -> list[mx.array]:
        """This process's rows of whole matrices, each added up over all processes."""

        def spread(whole: mx.array) -> mx.array:
            if len(whole) % self.size == 0:
                return whole
            return _taken(whole, _rows_of_each(len(whole), self.size).flatten())

        parts = self._exchange(list(map(spread, wholes)), self.size, self._sum_of_mine, ())
        held = [len(whole) // self.size + (self.rank < len(whole) % self.size) for whole in wholes]
        return [part[:count] for part, count in zip(parts, held, strict=True)]

    def _exchange(
        self,
        arrays: Sequence[mx.array],
        lines: int,
        send: Callable[[mx.array], mx.array],
        after: Sequence[mx.array],
    ) -> list[mx.array]:
        """Send arrays as so many ``lines`` each, those of one type side by side: a message costs time of its own."""
        received: list[Any] = [None] * len(arrays)
        for dtype in dict.fromkeys(array.dtype for array in arrays):
            chosen = [number for number, array in enumerate(arrays) if array.dtype == dtype]
            ready = mx.depends([arrays[number] for number in chosen], list(after))
            together = send(mx.concatenate([array.reshape(lines, -1) for array in ready], axis=1))
            ends = np.cumsum([array.size // lines for array in ready]).tolist()
            for number, part in zip(chosen, mx.split(together, ends[:-1], axis=1), strict=True):
                received[number] = part.reshape(-1, *arrays[number].shape[1:])
            after = [together]
        return received

    def _from_all(self, line: mx.array) -> mx.array:
        return mx.distributed.all_gather(line, group=self.group)

    def _sum_of_mine(self, lines: mx.array) -> mx.array:
        """Of everyone's lines the one for this process, added up."""
        if self._can_scatter:
            return mx.distributed.sum_scatter(lines, group=self.group)
        return _taken(mx.distributed.all_sum(lines, group=self.group), np.array([self.rank]))

    @cached_property
    def _can_scatter(self) -> bool:
        """MLX does not tell whether a backend can (NCCL can, the ring cannot), so it is tried, once."""
        try:
            mx.eval(mx.distributed.sum_scatter(mx.zeros(self.size), group=self.group))
        except RuntimeError:
            return False
        return True


def _rows_of_each(rows: int, size: int) -> Integer[np.ndarray, "size most"]:
    """Numbers of the rows that each process has; the last one again where it has one fewer."""
    counts = rows // size + (np.arange(size) < rows % size)
    first = np.cumsum(counts) - counts
    return first[:, None] + np.minimum(np.arange(counts[0]), counts[:, None] - 1)


def _taken(array: mx.array, rows: Integer[np.ndarray, "N"]) -> mx.array:
    return mx.take(array, mx.array(rows), axis=0)
