"""The task of tuning: it trains adapters or whole parts of a model on rows of pictures and text."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.packing import Packed, can_pack
from mm1_mlx.data.records import Records, Split
from mm1_mlx.data.sampler import Sampler
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.machine import machine_memory
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.dry_run import estimate_need, require_memory
from mm1_mlx.training.language_task import LanguageTask
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.tuning.folder import save_adapters
from mm1_mlx.tuning.settings import Tuning
from mm1_mlx.vision.cache import VisionCache


class TuningTask(LanguageTask):
    """Tunes a model on rows, and saves an adapter folder.

    Args:
        model: from ``load``; it is prepared for training here, and changed in place.
        processor: from ``load``.
        rows: rows by split: "train", and "valid" where there is one.
        recipe: the settings of the run.
        tuning: which parts learn, and how.
        vision_cache: where visual tokens are kept, if image encoder and connector are frozen.
    """

    def __init__(
        self,
        model: MM1,
        processor: Processor,
        rows: Mapping[Split, Records],
        recipe: Recipe,
        tuning: Tuning,
        *,
        vision_cache: VisionCache | None = None,
    ):
        super().__init__(model, recipe, tuning, vision_cache=vision_cache)
        held_out = rows.get("valid")
        self.batches, self._num_rows = self._batches(processor, rows["train"]), len(rows["train"])
        self._held_out = None if held_out is None else self._batches(processor, held_out)
        self._num_held_out = 0 if held_out is None else len(held_out)

    def _batches(self, processor: Processor, rows: Records) -> Batches:
        sampler = Sampler(len(rows), self.recipe, self.processes.rank, self.processes.size)
        packing = self.recipe.pack and can_pack(self.model)
        return Batches(rows, processor, self.recipe, sampler, packing=packing, known=self.knows)

    @property
    def run(self) -> dict[str, Any]:
        """What identifies the run besides its recipe: parts that learn, the model and the number of rows."""
        return {"tuning": self.tuning.to_dict(), "base": self.base, "rows": self._num_rows}

    @property
    def waited(self) -> float:
        """Seconds that updates have waited for data."""
        return self.batches.waited

    def updates(self, first: int, stop: int) -> Generator[list[Packed], None, None]:
        """Yield the packed sequences of each update."""
        return self.together(self.batches.updates(first, stop))

    def num_held_out(self, num_batches: int) -> int:
        """Return the number of rows in this many validation batches; -1 means all of them."""
        rows = self._num_held_out
        return rows if num_batches == -1 else min(rows, num_batches * self.recipe.batch_size)

    def held_out(self, num_rows: int) -> Generator[list[Packed], None, None]:
        """Yield the packed sequences of the first rows of "valid"."""
        if self._held_out is not None:
            yield from self.together(self._held_out.read_in_order(num_rows))

    def require_memory(self) -> None:
        """Refuse, before it begins, a run that does not fit into memory. Runs that use shards are not checked.

        Raises:
            TrainingError: the memory is too small; the message says what to lower.
        """
        sequences = self.batches.peek(0)
        if sequences and not self.recipe.shard:
            keep = 0 if self.vision_cache is None else self.vision_cache.max_bytes
            need = estimate_need(self.model, sequences, self.recipe, keep=keep, num_rows=self._num_rows)
            require_memory(need, machine_memory(), self.recipe)

    def save(self, folder: Path, weights: dict[str, mx.array]) -> None:
        """Write the adapter folder."""
        save_adapters(self.model, self.tuning, folder, base_identity=self.base, weights=weights)
