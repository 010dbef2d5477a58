"""Tuning, as a trainer does it: rows of pictures and text, adapters or whole parts of a model, an adapter folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.packing import Packed, can_pack
from mm1_mlx.data.records import Records
from mm1_mlx.data.sampler import Sampler
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.machine import machine_memory
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.dry_run import foreseen, require_room
from mm1_mlx.training.language_task import LanguageTask
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.tuning.folder import save_adapters
from mm1_mlx.tuning.settings import Tuning
from mm1_mlx.vision.cache import VisionCache


class TuningTask(LanguageTask):
    """Tunes a model on rows.

    Args:
        model: from ``load``, untouched; it is prepared, and changed in place.
        processor: from ``load``.
        rows: "train", and "valid" where there is one.
        recipe: of the run.
        tuning: which parts learn, and how.
        vision_cache: keep visual tokens here where image encoder and connector are frozen.
    """

    def __init__(
        self,
        model: MM1,
        processor: Processor,
        rows: Mapping[str, Records],
        recipe: Recipe,
        tuning: Tuning,
        *,
        vision_cache: VisionCache | None = None,
    ):
        super().__init__(model, recipe, tuning, vision_cache=vision_cache)
        self.batches, self._held_out = (
            self._batches(processor, rows[split]) if split in rows else None for split in ("train", "valid")
        )

    def _batches(self, processor: Processor, rows: Records) -> Batches:
        sampler = Sampler(len(rows), self.recipe, self.processes.rank, self.processes.size)
        packing = self.recipe.pack and can_pack(self.model)
        return Batches(rows, processor, self.recipe, sampler, packing=packing, known=self.knows)

    @property
    def run(self) -> dict[str, Any]:
        """What makes the run this run beside its recipe."""
        return {"tuning": self.tuning.to_dict(), "base": self.base, "rows": len(self.batches.rows)}

    @property
    def waited(self) -> float:
        """Seconds that updates stood still for data."""
        return self.batches.waited

    def updates(self, first: int, stop: int) -> Iterator[list[Packed]]:
        """Yield the packed sequences of each update."""
        return self.together(self.batches.updates(first, stop))

    def num_held_out(self, num_batches: int) -> int:
        """Return how many rows so many batches of a validation have."""
        if self._held_out is None:
            return 0
        rows = len(self._held_out.rows)
        return rows if num_batches == -1 else min(rows, num_batches * self.recipe.batch_size)

    def held_out(self, num_rows: int) -> Iterator[list[Packed]]:
        """Yield the first rows of "valid"."""
        return self.together(self._held_out.read_in_order(num_rows))

    def require_room(self) -> None:
        """Refuse a run that will not fit the memory, before it begins; not one that is spread over processes.

        Raises:
            TrainingError: says what to lower.
        """
        sequences, rows = self.batches.peek(0), len(self.batches.rows)
        if sequences and not self.recipe.shard:
            keep = 0 if self.vision_cache is None else self.vision_cache.max_bytes
            need = foreseen(self.model, sequences, self.recipe, keep=keep, num_rows=rows)
            require_room(need, machine_memory(), self.recipe)

    def save(self, folder: Path, weights: dict[str, mx.array]) -> None:
        """Write the adapter folder."""
        save_adapters(self.model, self.tuning, folder, base_identity=self.base, weights=weights)
