"""What one update is made of: losses and gradients of its micro-batches, in all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from mm1_mlx.training.distributed.sharding import Shards
from mm1_mlx.training.optimizer import clipped
from mm1_mlx.training.task import Look, MicroBatch, Task


@dataclass(frozen=True)
class Update:
    """What all processes found together."""

    measured: list[float]  # sums, one for each measure of the task
    learned: int  # what the loss is a sum over; 0: all rows were left out, and nothing is to be done
    tokens: int
    places: int  # of tokens, padding included
    pictures: int
    norm: mx.array  # of the gradients before they were clipped

    @property
    def loss(self) -> float:
        """The mean over what is learned."""
        return self.measured[0] / self.learned

    def is_finite(self) -> bool:
        """Say whether loss and gradients are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm.item())


def update_of(
    task: Task,
    batches: Sequence[MicroBatch],
    gradients_of: Callable[..., Any],
    shards: Shards,
    *,
    look: Look,
    summed: Callable[..., list[int | float]],
) -> tuple[Update, Any]:
    """Compute an update, and the gradients of its mean, clipped; of what is cut, this process's rows.

    The caller alone holds the gradients, so that the optimizer can let go of each once it is used.

    Args:
        task: that is trained.
        batches: this process's share.
        gradients_of: the task's loss, and its gradients.
        shards: which parameters are cut.
        look: at the pictures of a micro-batch.
        summed: numbers, each over all processes.
    """
    learned, tokens, places, pictures = summed(
        sum(batch.num_learned for batch in batches),
        sum(batch.num_tokens for batch in batches),
        sum(batch.num_places for batch in batches),
        sum(batch.num_pictures for batch in batches),
    )
    totals, gradients = _added_up(task, batches, gradients_of, look)
    gradients, measured = shards.summed(gradients), summed(*totals.tolist())
    gradients = tree_map(lambda g: g / max(learned, 1), gradients)
    norm = shards.norm(gradients)
    gradients = clipped(gradients, task.recipe.clip_norm, norm)
    return Update(measured, learned, tokens, places, pictures, norm), gradients


def _added_up(
    task: Task, batches: Sequence[MicroBatch], gradients_of: Callable[..., Any], look: Look
) -> tuple[mx.array, Any]:
    """Sum measures and gradients; those of a lone micro-batch are let go of."""
    totals, gradients = mx.zeros(len(task.measures)), None
    looks = task.looks(batches, look)
    for batch in batches:
        (_, measured), own = gradients_of(task.model, batch, next(looks))
        totals = totals + mx.stack(measured)
        gradients = own if gradients is None else tree_map(mx.add, gradients, own)
        mx.eval(totals, gradients)
    return totals, gradients or tree_map(mx.zeros_like, task.model.trainable_parameters())
