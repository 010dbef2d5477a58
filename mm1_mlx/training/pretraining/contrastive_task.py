"""The task of a contrastive stage: an image encoder learns to match pictures with their captions.

Source: MM1, "Model Architecture Ablations" (image encoder pre-training); CLIP (arXiv:2103.00020) and SigLIP
(arXiv:2303.15343) for the losses and their initial scale and bias.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.data.pairs import Pairs
from mm1_mlx.files.identity import model_identity
from mm1_mlx.model.contrastive import Contrastive, clip_loss, siglip_loss
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.pretraining.batches import Rows, StageBatches
from mm1_mlx.training.pretraining.gradient_cache import Pull, compute_pulls
from mm1_mlx.training.pretraining.outcome import Outcome
from mm1_mlx.training.pretraining.towers import embed_pairs, list_loss_parameters, make_towers
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.task import Look, Measured, Task
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import train_fully
from mm1_mlx.vision.encode import pixel_batches


class ContrastiveTask(Task[Contrastive, Pairs]):
    """Trains the image encoder of a model, together with a text tower that is dropped at the end.

    Args:
        outcome: the model as it was loaded; its image encoder is changed in place.
        rows: rows with captions.
        recipe: the settings of the run.
    """

    measures = ("loss", "pairs_right", "scale")

    def __init__(self, outcome: Outcome, rows: Rows, recipe: Recipe):
        whole, settings = outcome.beginning.model, outcome.stage.contrastive
        if settings is None:
            raise ValueError(f"stage {outcome.stage.name} is not contrastive.")
        self._base = model_identity(whole)
        prepare(whole, train_fully(outcome.stage.parts))
        mx.random.seed(recipe.seed)
        super().__init__(make_towers(whole, settings), recipe)
        self._outcome, self._settings = outcome, settings
        self._loss = {"clip": clip_loss, "siglip": siglip_loss}[settings.loss]
        self._processes = Processes()
        self._batches = StageBatches(outcome.stage, outcome.beginning, rows, recipe)

    @property
    def run(self) -> dict[str, Any]:
        """What identifies the run besides its recipe: the stage, its rows and the model it starts with."""
        return {"stage": self._batches.identity(), "base": self._base}

    @property
    def waited(self) -> float:
        """Seconds that updates have waited for data."""
        return self._batches.train.waited

    def updates(self, first: int, stop: int) -> Generator[list[Pairs], None, None]:
        """Yield the pairs of picture and caption of each update, in chunks."""
        return self._batches.train.updates(first, stop)

    def gather_metrics(self) -> dict[str, Any]:
        """Return each source's share of the pairs since the last report."""
        return self._batches.gather_metrics()

    def gather_counts(self) -> dict[str, Any]:
        """Return what each source gave since the last report."""
        return self._batches.gather_counts()

    def take_counts(self, counts: dict[str, Any]) -> None:
        """Go on from what each source had given when the run was stopped."""
        self._batches.take_counts(counts)

    def num_held_out(self, num_batches: int) -> int:
        """Return the number of pairs in this many validation batches."""
        return self._batches.num_held_out(num_batches)

    def held_out(self, num_rows: int) -> Generator[list[Pairs], None, None]:
        """Yield this process's share of held-out pairs, in chunks."""
        return self._batches.held_out(num_rows)

    def look(self, batch: Pairs) -> Float[mx.array, "N H W 3"]:
        """Return the pixels of the pictures of a chunk."""
        (pixels,) = pixel_batches(batch.pictures, len(batch.pictures))
        return mx.array(pixels)

    def looks(self, update: Sequence[Pairs], look: Look) -> Iterator[tuple[mx.array, Pull]]:
        """Yield the pixels and the ``Pull`` of each chunk, after embedding the pairs of all processes."""
        self.model.clip_scale()  # after the previous update, as CLIP does it
        own = []
        for pairs in update:
            own.append(embed_pairs(self.model, pairs, look(pairs)))
            mx.eval(own[-1])
        found = compute_pulls(
            own,
            list_loss_parameters(self.model),
            self._loss,
            dims=self._settings.embedding_dims,
            processes=self._processes,
        )
        return ((look(pairs), pull) for pairs, pull in zip(update, found, strict=True))

    def loss(
        self, model: Contrastive, batch: Pairs, seen: tuple[mx.array, Pull]
    ) -> tuple[mx.array, Measured]:
        """Return a value whose gradient is these pairs' part of the gradient of the update's loss, and the measures."""
        pixels, pull = seen
        others = list_loss_parameters(model)
        scale = batch.num_learned * mx.exp(others[0])
        return pull.of(*embed_pairs(model, batch, pixels), others), (pull.loss, pull.num_right, scale)

    def save(self, folder: Path, weights: Mapping[str, mx.array]) -> None:
        """Write the whole model folder, with the image encoder as it is now."""
        self._outcome.save(folder)
