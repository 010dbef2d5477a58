"""A contrastive stage: from pictures and their captions an image encoder learns what tells them apart.

Source: MM1, "Model Architecture Ablations" (image encoder pre-training); CLIP (arXiv:2103.00020) and SigLIP
(arXiv:2303.15343) for the losses and how they begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.data.pairs import Pairs
from mm1_mlx.files.identity import model_identity
from mm1_mlx.model.contrastive import Contrastive, clip_loss, siglip_loss
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.pretraining.batches import Rows, StageBatches
from mm1_mlx.training.pretraining.gradient_cache import Pull, pulls
from mm1_mlx.training.pretraining.outcome import Outcome
from mm1_mlx.training.pretraining.towers import embed_pairs, learned_beside, towers
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.task import Look, Measured, Task
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import train_fully
from mm1_mlx.vision.encode import pixel_batches


class ContrastiveTask(Task):
    """Trains the image encoder of a model, and a text tower that is let go of at the end.

    Args:
        outcome: the model, untouched; its image encoder is changed in place.
        rows: captions.
        recipe: of the run.
    """

    measures = ("loss", "pairs_right", "scale")

    def __init__(self, outcome: Outcome, rows: Rows, recipe: Recipe):
        whole, settings = outcome.beginning.model, outcome.stage.contrastive
        self._base = model_identity(whole)
        prepare(whole, train_fully(outcome.stage.parts))
        mx.random.seed(recipe.seed)
        super().__init__(towers(whole, settings), recipe)
        self._outcome, self._settings = outcome, settings
        self._loss = {"clip": clip_loss, "siglip": siglip_loss}[settings.loss]
        self._processes = Processes()
        self._batches = StageBatches(outcome.stage, outcome.beginning, rows, recipe)

    @property
    def run(self) -> dict[str, Any]:
        """What makes the run this run beside its recipe."""
        return {"stage": self._batches.identity(), "base": self._base}

    @property
    def waited(self) -> float:
        """Seconds that updates stood still for data."""
        return self._batches.train.waited

    def updates(self, first: int, stop: int) -> Iterator[list[Pairs]]:
        """Yield the pairs of each update, in chunks."""
        return self._batches.train.updates(first, stop)

    def told(self) -> dict[str, Any]:
        """Return what the mixture really gave."""
        return self._batches.told()

    def num_held_out(self, num_batches: int) -> int:
        """Return how many pairs so many batches of a validation have."""
        return self._batches.num_held_out(num_batches)

    def held_out(self, num_rows: int) -> Iterator[list[Pairs]]:
        """Yield pairs that are not trained on."""
        return self._batches.held_out(num_rows)

    def look(self, pairs: Pairs) -> Float[mx.array, "N H W 3"]:
        """Return the pixels of the pictures."""
        (pixels,) = pixel_batches(pairs.pictures, len(pairs.pictures))
        return mx.array(pixels)

    def looks(self, update: Sequence[Pairs], look: Look) -> Iterator[tuple[mx.array, Pull]]:
        """Embed all pairs of an update, those of other processes among them; then yield what pulls at each chunk."""
        self.model.clip_scale()  # after the update before, as CLIP does it
        own = []
        for pairs in update:
            own.append(embed_pairs(self.model, pairs, look(pairs)))
            mx.eval(own[-1])
        found = pulls(
            own,
            learned_beside(self.model),
            self._loss,
            dims=self._settings.embedding_dims,
            processes=self._processes,
        )
        return ((look(pairs), pull) for pairs, pull in zip(update, found, strict=True))

    def loss(
        self, model: Contrastive, pairs: Pairs, seen: tuple[mx.array, Pull]
    ) -> tuple[mx.array, Measured]:
        """Return what has the gradient of the whole update's loss by these pairs, and their share of that loss."""
        pixels, pull = seen
        others = learned_beside(model)
        scale = pairs.num_learned * mx.exp(others[0])
        return pull.of(*embed_pairs(model, pairs, pixels), others), (pull.loss, pull.num_right, scale)

    def save(self, folder: Path, weights: Mapping[str, mx.array]) -> None:
        """Write the model folder, with the image encoder as it is now."""
        self._outcome.save(folder)
