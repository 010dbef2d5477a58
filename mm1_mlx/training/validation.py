"""How surprising held-out rows are to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import mlx.core as mx

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.packing import can_pack
from mm1_mlx.data.records import Records
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.objective import loss_sum, see
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.task import MicroBatch


def losses(
    groups: Iterator[list[MicroBatch]], loss_of: Callable[[MicroBatch], mx.array]
) -> tuple[float, int]:
    """Sum the loss over all that is learned in groups of micro-batches, and count that; the model learns nothing."""
    total, learned = 0.0, 0
    for group in groups:
        for batch in group:
            total += loss_of(batch).item()
            learned += batch.num_learned
    return total, learned


def mean_loss(model: MM1, processor: Processor, rows: Records, recipe: Recipe) -> tuple[float, int]:
    """Return nats a learned token over all ``rows``, and how many tokens there were.

    Raises:
        DataError: a row cannot be used.
    """
    batches = Batches(rows, processor, recipe, packing=recipe.pack and can_pack(model))
    look = partial(see, model, trained=frozenset(), batch_size=recipe.vision_batch_size)

    model.eval()
    total, learned = losses(batches.in_order(len(rows)), lambda packed: loss_sum(model, packed, look(packed)))
    return total / max(learned, 1), learned
