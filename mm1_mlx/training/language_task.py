"""Learning to continue sequences of text and pictures, wherever they come from: tuning and pre-training alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import mlx.core as mx

from mm1_mlx.data.packing import Packed
from mm1_mlx.files.identity import model_identity, vision_identity
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.causality import require_causality
from mm1_mlx.training.distributed.in_step import equally_many, equally_often
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.objective import objective
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.task import Look, Measured, Task
from mm1_mlx.tuning.adapters import prepare, trained_parts
from mm1_mlx.tuning.settings import Tuning
from mm1_mlx.vision.cache import VisionCache, entry_key
from mm1_mlx.vision.look import FrozenOutput, run_frozen_parts


class LanguageTask(Task):
    """Makes the loss on text smaller. A kind of it gives the sequences, through ``together``, and ``save``.

    Args:
        model: from ``load``, untouched; it is prepared, and changed in place.
        recipe: of the run.
        tuning: which parts learn, and how.
        vision_cache: keep visual tokens here where image encoder and connector are frozen.
    """

    measures = ("loss", "router_loss")

    def __init__(
        self, model: MM1, recipe: Recipe, tuning: Tuning, *, vision_cache: VisionCache | None = None
    ):
        super().__init__(model, recipe)
        self.tuning, self.base = tuning, model_identity(model)
        mx.random.seed(recipe.seed)
        prepare(model, tuning)
        self.trained = trained_parts(model)
        self.vision_cache = None if self.trained & {"image_encoder", "connector"} else vision_cache
        if self.vision_cache is not None:
            vision_identity(model)  # here, not in a thread
        self.processes = Processes()
        self._in_step = recipe.shard and self.processes.size > 1

    def together(self, groups: Iterator[list[Packed]]) -> Iterator[list[Packed]]:
        """Yield groups of sequences, of which processes that share layers have as many."""
        with closing(groups):
            yield from equally_many(groups, self.processes) if self._in_step else groups

    def look(self, packed: Packed) -> FrozenOutput:
        """Look at the pictures of a sequence."""
        batch_size = self.recipe.vision_batch_size
        seen = run_frozen_parts(
            self.model, packed.pictures, trained=self.trained, cache=self.vision_cache, batch_size=batch_size
        )
        if self._in_step:
            return equally_often(self.model, seen, self.processes)
        return seen

    def knows(self, digest: str) -> bool:
        """Say whether the visual tokens of a picture are kept, so that it need not be opened."""
        return self.vision_cache is not None and entry_key(digest, self.model) in self.vision_cache

    def loss(self, model: MM1, packed: Packed, seen: FrozenOutput) -> tuple[mx.array, Measured]:
        """Return the objective, and apart the losses of language and of routers."""
        whole, loss = objective(model, packed, seen)
        return whole, (loss, whole - loss)

    def require_sound(self, update: Sequence[Packed], look: Look) -> None:
        """Refuse a wrong mask: tried on the sequence with the most rows."""
        if update:
            packed = max(update, key=lambda packed: len(packed.names))
            require_causality(self.model, packed, look(packed))
