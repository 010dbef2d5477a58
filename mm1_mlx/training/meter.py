"""Measurements of a run between two reports."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mm1_mlx.strict import Config
from mm1_mlx.training.step import Update


@dataclass(frozen=True)
class Tally(Config):
    """What all processes together have done since the last report, as checkpoints hold it."""

    measured: tuple[float, ...] = ()  # sums, one for each measure
    learned: int = 0
    tokens: int = 0
    places: int = 0  # padding included
    pictures: int = 0
    updates: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds of them spent waiting for data
    of_task: dict = field(default_factory=dict)  # what the task itself counts


class Meter:
    """Measures what all processes together do until the next report.

    Args:
        measures: names of what the task measures.
        waited: seconds spent waiting for data so far in this process.
        before: what a run did since its last report until it was stopped.
    """

    def __init__(self, measures: tuple[str, ...], *, waited: float = 0.0, before: Tally | None = None):
        self.measures, self._waited, self._start = measures, waited, time.perf_counter()
        self._before = before or Tally()
        self._measured = list(self._before.measured) or [0.0] * len(measures)
        self._learned, self._tokens = self._before.learned, self._before.tokens
        self._places, self._pictures = self._before.places, self._before.pictures
        self._updates = self._before.updates

    def count(self, update: Update) -> None:
        """Add the numbers of one more update."""
        self._updates += 1
        self._measured = [a + b for a, b in zip(self._measured, update.measured, strict=True)]
        self._learned += update.learned
        self._tokens += update.tokens
        self._places += update.places
        self._pictures += update.pictures

    def tally(self, waited: float, of_task: dict[str, Any]) -> Tally:
        """Return what was done since the last report.

        Args:
            waited: seconds spent waiting for data so far in this process.
            of_task: what the task itself counts.
        """
        return Tally(
            tuple(self._measured),
            self._learned,
            self._tokens,
            self._places,
            self._pictures,
            self._updates,
            self._before.seconds + time.perf_counter() - self._start,
            self._before.waited + waited - self._waited,
            of_task,
        )

    def line(self, update: int, learning_rate: float, waited: float) -> dict[str, Any]:
        """Return the report; of the measures, those after the first that stayed 0 are left out.

        Args:
            update: number of the last update.
            learning_rate: the rate of the last update.
            waited: seconds spent waiting for data so far in this process.
        """
        found = self.tally(waited, {})
        seconds = max(found.seconds, 1e-9)
        loss, *others = [total / max(found.learned, 1) for total in found.measured]
        return {
            "update": update,
            "loss": loss,
            **{name: value for name, value in zip(self.measures[1:], others, strict=False) if value},
            "learning_rate": learning_rate,
            "updates_per_second": found.updates / seconds,
            "tokens_per_second": found.tokens / seconds,
            "pictures_per_second": found.pictures / seconds,
            "padding": 1 - found.tokens / max(found.places, 1),
            "data_wait": found.waited / seconds,
            "peak_memory": mx.get_peak_memory(),
        }
