"""Choose the rows of an update from the seed and the update's number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from mm1_mlx.data.settings import DataSettings

WINDOW = 4  # groups of rows that are read together


@dataclass(frozen=True)
class Sampler:
    """One source read epoch by epoch, each in its own order; every process has its own rows of a batch."""

    num_rows: int
    settings: DataSettings
    rank: int = 0  # number of this process
    size: int = 1  # number of processes

    def rows_of(self, update: int) -> list[int]:
        """Return the numbers of this process's rows of one update, counted from 0."""
        size = self.settings.rows_per_update
        return [self._row(update * size + place) for place in range(self.rank, size, self.size)]

    def first(self, num_rows: int) -> range:
        """Return the numbers of this process's rows among the first ``num_rows``, in the order of the source."""
        return range(self.rank, num_rows, self.size)

    def _row(self, place: int) -> int:
        """Return the row at a place of the endless sequence of epochs."""
        epoch, number = divmod(place, self.num_rows)
        return int(_order_of_epoch(self.num_rows, self.settings.seed, epoch)[number])


def order(num_rows: int, seed: int, *key: int) -> Int64[np.ndarray, "R"]:
    """Return the order in which an epoch takes the rows: a permutation that only ``seed`` and ``key`` decide.

    It sorts raw random bits, which NumPy keeps from version to version; its own shuffles may change.
    """
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key))
    return np.argsort(bits.random_raw(num_rows), kind="stable").astype(np.int64)


def order_by_groups(groups: Sequence[int], seed: int, *key: int) -> Int64[np.ndarray, "R"]:
    """Return an order for rows that are read in groups: groups are shuffled, and rows within a few groups at a time.

    Args:
        groups: number of rows of each group.
        seed: the run's seed.
        key: numbers that also decide the order, such as the epoch.
    """
    starts = np.concatenate([[0], np.cumsum(groups)])
    shuffled, found = order(len(groups), seed, *key), []
    for begin in range(0, len(groups), WINDOW):
        rows = np.concatenate(
            [np.arange(int(starts[g]), int(starts[g + 1])) for g in shuffled[begin : begin + WINDOW]]
        )
        found.append(rows[order(len(rows), seed, *key, begin)])
    return np.concatenate(found).astype(np.int64)


_order_of_epoch = lru_cache(maxsize=2)(order)  # an update may reach into the next epoch
