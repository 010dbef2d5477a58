"""The loss of a model on rows that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx

from mm1_mlx.arrays import to_number
from mm1_mlx.data.batches import Batches
from mm1_mlx.data.packing import Packed, can_pack
from mm1_mlx.data.records import Records
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.task import Batch
from mm1_mlx.vision.look import run_frozen_parts


def sum_losses(
    groups: Iterator[list[Batch]], losses_of: Callable[[list[Batch]], Iterator[mx.array]]
) -> tuple[float, int]:
    """Return the summed loss of groups of micro-batches, and the number of tokens or pairs it is summed over."""
    total, learned = 0.0, 0
    for group in groups:
        total += sum(map(to_number, losses_of(group)))
        learned += sum(batch.num_learned for batch in group)
    return total, learned


def mean_loss(model: MM1, processor: Processor, rows: Records, recipe: Recipe) -> tuple[float, int]:
    """Return the mean loss over all ``rows``, in nats for each learned token, and the number of such tokens.

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
    total, learned = sum_losses(batches.read_in_order(len(rows)), lambda group: map(loss, group))
    return total / max(learned, 1), learned
