"""What the processes of a run send each other: numbers to agree on, sums of arrays, and the rows of matrices.

The rows of a matrix are spread in order and as evenly as possible: every process has ``rows // size`` of them or one
more. A message has equally many rows from every process, so a process with fewer rows sends its last one twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from jaxtyping import Integer
from mlx.utils import tree_map

from mm1_mlx.arrays import to_list

Number = TypeVar("Number", bound="int | float")


class Processes:
    """All processes that train together; this one is number ``rank`` of ``size``."""

    def __init__(self) -> None:
        self.group = mx.distributed.init()
        self.rank, self.size = self.group.rank(), self.group.size()

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the processes give."""
        (most,) = to_list(mx.distributed.all_max(mx.array([number]), group=self.group))
        return most

    def sum_numbers(self, *numbers: Number) -> list[Number]:
        """Add each number up over all processes."""
        if self.size == 1:
            return list(numbers)
        sums = to_list(self.sum_arrays(mx.array(numbers, dtype=mx.float32)))
        return [type(number)(total) for number, total in zip(numbers, sums, strict=True)]

    def sum_arrays(self, arrays: Any) -> Any:
        """Add each array of a nested structure up over all processes."""
        return tree_map(lambda array: mx.distributed.all_sum(array, group=self.group), arrays)

    def cut(self, whole: mx.array) -> mx.array:
        """Return this process's rows of a matrix, copied, because a slice would keep the whole matrix in memory."""
        return _take_rows(whole, np.unique(_rows_of_each(len(whole), self.size)[self.rank]))

    def rows_of_all(self, rows: mx.array) -> list[mx.array]:
        """Return the rows of every process, in the order of the processes.

        The processes may have different numbers of rows. All of them get the same result.
        """
        if self.size == 1:
            return [rows]
        counts = self.sum_numbers(*(len(rows) * (rank == self.rank) for rank in range(self.size)))
        most, rest = max(counts, default=0), rows.shape[1:]
        if most == 0:
            return [rows] * self.size
        padded = mx.concatenate([rows, mx.zeros((most - len(rows), *rest), rows.dtype)])
        every = mx.distributed.all_gather(padded, group=self.group).reshape(self.size, most, *rest)
        return [every[rank, :count] for rank, count in enumerate(counts)]

    def gather(
        self, parts: Sequence[mx.array], rows: Sequence[int], after: Sequence[mx.array] = ()
    ) -> list[mx.array]:
        """Gather whole matrices from each process's rows of them.

        Args:
            parts: this process's rows of each matrix.
            rows: number of rows of each whole matrix.
            after: arrays that must be computed before anything is sent.
        """

        def fill(part: mx.array, count: int) -> mx.array:
            if count % self.size == 0:
                return part
            mine = _rows_of_each(count, self.size)[self.rank]
            return _take_rows(part, mine - mine[0])

        def drop_repeats(stack: mx.array, count: int) -> mx.array:
            if count % self.size == 0:
                return stack
            return _take_rows(stack, np.unique(_rows_of_each(count, self.size), return_index=True)[1])

        stacks = self._exchange(list(map(fill, parts, rows)), 1, self._from_all, after)
        return list(map(drop_repeats, stacks, rows))

    def scatter(self, wholes: Sequence[mx.array]) -> list[mx.array]:
        """Add whole matrices up over all processes, and return this process's rows of the sums."""

        def spread(whole: mx.array) -> mx.array:
            if len(whole) % self.size == 0:
                return whole
            return _take_rows(whole, _rows_of_each(len(whole), self.size).flatten())

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
        """Send arrays, and return what is received, in the same order.

        All arrays of one type go in one message, because every message costs time of its own.

        Args:
            arrays: what this process sends.
            lines: number of equal pieces of each array, one for each receiver.
            send: function that sends one two-dimensional array, and returns what is received.
            after: arrays that must be computed before anything is sent.
        """
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
        """Return the sum, over all processes, of the line meant for this process."""
        if self._can_scatter:
            return mx.distributed.sum_scatter(lines, group=self.group)
        return _take_rows(mx.distributed.all_sum(lines, group=self.group), np.array([self.rank]))

    @cached_property
    def _can_scatter(self) -> bool:
        """Whether ``sum_scatter`` works: NCCL has it, the ring has not, and only a trial shows it."""
        try:
            mx.eval(mx.distributed.sum_scatter(mx.zeros(self.size), group=self.group))
        except RuntimeError:
            return False
        return True


def _rows_of_each(rows: int, size: int) -> Integer[np.ndarray, "size most"]:
    """Return the indices of each process's rows; where a process has one row fewer, its last index is repeated."""
    counts = rows // size + (np.arange(size) < rows % size)
    first = np.cumsum(counts) - counts
    return first[:, None] + np.minimum(np.arange(counts[0]), counts[:, None] - 1)


def _take_rows(array: mx.array, rows: Integer[np.ndarray, "N"]) -> mx.array:
    return mx.take(array, mx.array(rows), axis=0)
