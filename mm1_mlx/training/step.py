"""The computation of one update: losses and gradients of its micro-batches in all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from mm1_mlx.arrays import to_list, to_number
from mm1_mlx.training.distributed.sharding import Shards
from mm1_mlx.training.optimizer import clip_gradients
from mm1_mlx.training.task import Look, MicroBatch, Task


@dataclass(frozen=True)
class Update:
    """The numbers of one update, over all processes."""

    measured: list[float]  # sums, one for each measure of the task
    learned: int  # tokens, or other things, that the loss is a sum over; 0 means that all rows were left out
    tokens: int
    places: int  # tokens and padding
    pictures: int
    norm: mx.array  # norm of the gradients before they were clipped

    @property
    def loss(self) -> float:
        """The mean of the loss over what is learned."""
        return self.measured[0] / self.learned

    def is_finite(self) -> bool:
        """Tell whether the loss and the norm of the gradients are finite."""
        return math.isfinite(self.loss) and math.isfinite(to_number(self.norm))


def compute_update(
    task: Task,
    batches: Sequence[MicroBatch],
    gradients_of: Callable[..., Any],
    shards: Shards,
    *,
    look: Look,
    sum_numbers: Callable[..., list[Any]],
) -> tuple[Update, Any]:
    """Compute the numbers of an update, and the clipped gradients of its mean loss.

    Of parameters that are cut, each process gets the gradients of its own rows. Nothing else refers to the gradients,
    so that the optimizer can free each one after its use.

    Args:
        task: what is trained.
        batches: this process's share of the update.
        gradients_of: function that returns the task's loss and its gradients.
        shards: which parameters are cut.
        look: function that runs the frozen parts of the model on a micro-batch.
        sum_numbers: function that adds each of its arguments up over all processes.
    """
    learned, tokens, places, pictures = sum_numbers(
        sum(batch.num_learned for batch in batches),
        sum(batch.num_tokens for batch in batches),
        sum(batch.num_places for batch in batches),
        sum(batch.num_pictures for batch in batches),
    )
    totals, gradients = _add_up(task, batches, gradients_of, look)
    gradients, measured = shards.sum_gradients(gradients), sum_numbers(*to_list(totals))
    gradients = tree_map(lambda g: g / max(learned, 1), gradients)
    norm = shards.norm(gradients)
    gradients = clip_gradients(gradients, task.recipe.clip_norm, norm)
    return Update(measured, learned, tokens, places, pictures, norm), gradients


def _add_up(
    task: Task, batches: Sequence[MicroBatch], gradients_of: Callable[..., Any], look: Look
) -> tuple[mx.array, Any]:
    """Sum the measures and the gradients of this process's micro-batches."""
    totals, gradients = mx.zeros(len(task.measures)), None
    looks = task.looks(batches, look)
    for batch in batches:
        (_, measured), own = gradients_of(task.model, batch, next(looks))
        totals = totals + mx.stack(measured)
        gradients = own if gradients is None else tree_map(mx.add, gradients, own)
        mx.eval(totals, gradients)
    return totals, gradients or tree_map(mx.zeros_like, task.model.trainable_parameters())
