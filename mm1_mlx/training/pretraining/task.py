"""Pre-training, as a trainer does it: a mixture of captions, documents and text, whole parts of a model.

Source: MM1, "Pre-training Data Ablation" and "Pre-training Details": all parts learn, and the loss is on text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.data.packing import Packed
from mm1_mlx.training.language_task import LanguageTask
from mm1_mlx.training.pretraining.batches import Rows, StageBatches
from mm1_mlx.training.pretraining.outcome import Outcome
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.tuning.settings import train_fully
from mm1_mlx.vision.cache import VisionCache


class PretrainingTask(LanguageTask):
    """Trains whole parts of a model on a mixture; instruction tuning after it is the same with other rows.

    Args:
        outcome: the model, untouched; it is changed in place.
        rows: what it learns from.
        recipe: of the run.
        vision_cache: keep visual tokens here where image encoder and connector are frozen.
    """

    keeps_frozen = True

    def __init__(
        self, outcome: Outcome, rows: Rows, recipe: Recipe, *, vision_cache: VisionCache | None = None
    ):
        parts = train_fully(outcome.stage.parts)
        super().__init__(outcome.beginning.model, recipe, parts, vision_cache=vision_cache)
        self._outcome = outcome
        self._batches = StageBatches(outcome.stage, outcome.beginning, rows, recipe, known=self.knows)

    @property
    def run(self) -> dict[str, Any]:
        """What makes the run this run beside its recipe."""
        return {"stage": self._batches.identity(), "base": self.base}

    @property
    def waited(self) -> float:
        """Seconds that updates stood still for data."""
        return self._batches.train.waited

    def updates(self, first: int, stop: int) -> Iterator[list[Packed]]:
        """Yield the packed sequences of each update."""
        return self.together(self._batches.train.updates(first, stop))

    def told(self) -> dict[str, Any]:
        """Return what the mixture really gave."""
        return self._batches.told()

    def num_held_out(self, num_batches: int) -> int:
        """Return how many rows so many batches of a validation have."""
        return self._batches.num_held_out(num_batches)

    def held_out(self, num_rows: int) -> Iterator[list[Packed]]:
        """Yield rows that are not trained on."""
        return self.together(self._batches.held_out(num_rows))

    def save(self, folder: Path, weights: Mapping[str, mx.array]) -> None:
        """Write the model folder."""
        self._outcome.save(folder, weights)
