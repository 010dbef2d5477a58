"""Pre-training, as a trainer does it: a mixture of captions, documents and text, whole parts of a model.

Source: MM1, "Pre-training Data Ablation" and "Pre-training Details": all parts learn, and the loss is on text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.data.mixture import Mixture
from mm1_mlx.data.packing import Packed
from mm1_mlx.training.language_task import LanguageTask
from mm1_mlx.training.pretraining.batches import batches_of
from mm1_mlx.training.pretraining.outcome import Outcome
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.tuning.settings import in_full
from mm1_mlx.vision.cache import VisionCache


class PretrainingTask(LanguageTask):
    """Trains whole parts of a model on a mixture; instruction tuning after it is the same with other rows.

    Args:
        outcome: the model, untouched; it is changed in place.
        mixture: what it learns from.
        recipe: of the run.
        vision_cache: keep visual tokens here where image encoder and connector are frozen.
    """

    keeps_frozen = True

    def __init__(
        self,
        outcome: Outcome,
        mixture: Mixture,
        recipe: Recipe,
        *,
        vision_cache: VisionCache | None = None,
    ):
        parts = in_full(outcome.stage.parts)
        super().__init__(outcome.beginning.model, recipe, parts, vision_cache=vision_cache)
        self._outcome, self._mixture = outcome, mixture
        self.batches = batches_of(outcome.stage, outcome.beginning, mixture, recipe, known=self.knows)

    @property
    def run(self) -> dict[str, Any]:
        """What makes the run this run beside its recipe."""
        return {"stage": self._outcome.stage.identity(), "base": self.base}

    @property
    def waited(self) -> float:
        """Seconds that updates stood still for data."""
        return self.batches.waited

    def updates(self, first: int, stop: int) -> Iterator[list[Packed]]:
        """Yield the packed sequences of each update."""
        return self.together(self.batches.updates(first, stop))

    def require_room(self) -> None:
        """Refuse a run that will not fit the memory; not one that is spread over processes."""
        self.require_room_for(self.batches.unopened(0), num_rows=None)

    def save(self, folder: Path, weights: Mapping[str, mx.array]) -> None:
        """Write the model folder."""
        self._outcome.save(folder, weights)
