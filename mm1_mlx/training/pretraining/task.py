"""The task of pre-training: it trains whole parts of a model on a mixture of captions, documents and text.

Source: MM1, "Pre-training Data Ablation" and "Pre-training Details": all parts learn, and the loss is on text alone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
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
    """Trains whole parts of a model on a mixture. Instruction tuning is the same with other rows.

    Args:
        outcome: the model as it was loaded; it is changed in place.
        rows: the rows to learn from.
        recipe: the settings of the run.
        vision_cache: where visual tokens are kept, if image encoder and connector are frozen.
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
        """What identifies the run besides its recipe: the stage, its rows and the model it starts with."""
        return {"stage": self._batches.identity(), "base": self.base}

    @property
    def waited(self) -> float:
        """Seconds that updates have waited for data."""
        return self._batches.train.waited

    def updates(self, first: int, stop: int) -> Generator[list[Packed], None, None]:
        """Yield the packed sequences of each update."""
        return self.together(self._batches.train.updates(first, stop))

    def gather_metrics(self) -> dict[str, Any]:
        """Return each source's share of the rows since the last report."""
        return self._batches.gather_metrics()

    def gather_counts(self) -> dict[str, Any]:
        """Return what each source gave since the last report."""
        return self._batches.gather_counts()

    def take_counts(self, counts: dict[str, Any]) -> None:
        """Go on from what each source had given when the run was stopped."""
        self._batches.take_counts(counts)

    def num_held_out(self, num_batches: int) -> int:
        """Return the number of rows in this many validation batches."""
        return self._batches.num_held_out(num_batches)

    def held_out(self, num_rows: int) -> Generator[list[Packed], None, None]:
        """Yield the packed sequences of this process's share of held-out rows."""
        return self.together(self._batches.held_out(num_rows))

    def save(self, folder: Path, weights: Mapping[str, mx.array]) -> None:
        """Write the whole model folder."""
        self._outcome.save(folder, weights)
