"""Measurements of a run between two reports."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mm1_mlx.training.step import Update


@dataclass
class Meter:
    """What all processes together have done since the last report."""

    measures: tuple[str, ...]  # names of what the task measures
    waited: float = 0.0  # seconds spent waiting for data, from the run's beginning to the last report
    start: float = field(default_factory=time.perf_counter)
    measured: list[float] = field(default_factory=list)  # sums, one for each measure
    learned: int = 0
    tokens: int = 0
    places: int = 0  # padding included
    pictures: int = 0
    updates: int = 0

    def count(self, update: Update) -> None:
        """Add the numbers of one more update."""
        self.updates += 1
        before = self.measured or [0.0] * len(self.measures)
        self.measured = [a + b for a, b in zip(before, update.measured, strict=True)]
        self.learned += update.learned
        self.tokens += update.tokens
        self.places += update.places
        self.pictures += update.pictures

    def line(self, update: int, learning_rate: float, waited: float) -> dict[str, Any]:
        """Return the report; of the measures, those after the first that stayed 0 are left out.

        Args:
            update: number of the last update.
            learning_rate: the rate of the last update.
            waited: seconds spent waiting for data since the run began.
        """
        seconds = max(time.perf_counter() - self.start, 1e-9)
        loss, *others = [total / max(self.learned, 1) for total in self.measured or [0.0]]
        return {
            "update": update,
            "loss": loss,
            **{name: value for name, value in zip(self.measures[1:], others, strict=False) if value},
            "learning_rate": learning_rate,
            "updates_per_second": self.updates / seconds,
            "tokens_per_second": self.tokens / seconds,
            "pictures_per_second": self.pictures / seconds,
            "padding": 1 - self.tokens / max(self.places, 1),
            "data_wait": (waited - self.waited) / seconds,
            "peak_memory": mx.get_peak_memory(),
        }
