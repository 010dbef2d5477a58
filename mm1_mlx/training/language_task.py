"""The task that tuning and pre-training share: learning to continue sequences of text and pictures."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import mlx.core as mx

from mm1_mlx.data.packing import Packed
from mm1_mlx.files.identity import model_identity, vision_identity
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.causality import require_causality
from mm1_mlx.training.distributed.in_step import add_idle_sequences, add_idle_views
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.objective import objective
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.task import Look, Measured, Task
from mm1_mlx.tuning.adapters import prepare, trained_parts
from mm1_mlx.tuning.settings import Tuning
from mm1_mlx.vision.cache import VisionCache, entry_key
from mm1_mlx.vision.look import FrozenOutput, run_frozen_parts


class LanguageTask(Task[MM1, Packed]):
    """Lowers the loss on text. A subclass yields the sequences, passed through ``together``, and defines ``save``.

    Args:
        model: from ``load``; it is prepared for training here, and changed in place.
        recipe: the settings of the run.
        tuning: which parts learn, and how.
        vision_cache: where visual tokens are kept, if image encoder and connector are frozen.
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
            vision_identity(model)  # computed here, since the threads that ask for it must not compute it
        self.processes = Processes()
        self._in_step = recipe.shard and self.processes.size > 1

    def together(self, groups: Generator[list[Packed], None, None]) -> Generator[list[Packed], None, None]:
        """Yield groups of sequences; processes that share layers get groups of equal length."""
        with closing(groups):
            yield from add_idle_sequences(groups, self.processes) if self._in_step else groups

    def look(self, batch: Packed) -> FrozenOutput:
        """Run the frozen parts of the model on the pictures of a sequence."""
        batch_size = self.recipe.vision_batch_size
        seen = run_frozen_parts(
            self.model, batch.pictures, trained=self.trained, cache=self.vision_cache, batch_size=batch_size
        )
        if self._in_step:
            return add_idle_views(self.model, seen, self.processes)
        return seen

    def knows(self, digest: str) -> bool:
        """Tell whether the visual tokens of the picture with this digest are kept, so that it need not be opened."""
        return self.vision_cache is not None and entry_key(digest, self.model) in self.vision_cache

    def loss(self, model: MM1, batch: Packed, seen: FrozenOutput) -> tuple[mx.array, Measured]:
        """Return what training lowers, and the two losses that it is the sum of: of the text and of the routers."""
        whole, loss = objective(model, batch, seen)
        return whole, (loss, whole - loss)

    def require_sound(self, update: Sequence[Packed], look: Look) -> None:
        """Refuse a model with a wrong attention mask, after testing it on the sequence with the most rows.

        Raises:
            TrainingError: a prediction depends on tokens that it must not depend on.
        """
        if update:
            packed = max(update, key=lambda packed: len(packed.names))
            require_causality(self.model, packed, look(packed))
