"""How surprising held-out rows are to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.packing import Packed, can_pack
from mm1_mlx.data.records import Records
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.task import MicroBatch
from mm1_mlx.vision.look import run_frozen_parts


def losses(
    groups: Iterator[list[MicroBatch]], losses_of: Callable[[list[MicroBatch]], Iterator[mx.array]]
) -> tuple[float, int]:
    """Sum the loss over all that is learned in groups of micro-batches, and count that; the model learns nothing."""
    total, learned = 0.0, 0
    for group in groups:
        total += sum(loss.item() for loss in losses_of(group))
        learned += sum(batch.num_learned for batch in group)
    return total, learned


def mean_loss(model: MM1, processor: Processor, rows: Records, recipe: Recipe) -> tuple[float, int]:
    """Return nats a learned token over all ``rows``, and how many tokens there were.

    Raises:
        DataError: a row cannot be used.
    """
    batches = Batches(rows, processor, recipe, packing=recipe.pack and can_pack(model))

    def loss(packed: Packed) -> mx.array:
        seen = run_frozen_parts(
            model, packed.pictures, trained=frozenset(), batch_size=recipe.vision_batch_size
        )
        return loss_sum(model, packed, seen)

    model.eval()
    total, learned = losses(batches.read_in_order(len(rows)), lambda group: map(loss, group))
    return total / max(learned, 1), learned
