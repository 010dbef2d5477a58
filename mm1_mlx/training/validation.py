"""How surprising held-out rows are to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mm1_mlx.data.batches import Batches, Rows
from mm1_mlx.data.packing import Packed, can_pack
from mm1_mlx.data.settings import TrainingSettings
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.vision.look import Seen, see


def losses(
    model: MM1, sequences: Iterator[list[Packed]], look: Callable[[Packed], Seen]
) -> tuple[float, int]:
    """Loss summed over the learned tokens of all sequences, and their number. The model learns nothing.

    Args:
        model: that reads them.
        sequences: by batch.
        look: at the pictures of a sequence.
    """
    model.eval()
    total, learned = 0.0, 0
    for group in sequences:
        for packed in group:
            total += loss_sum(model, packed, look(packed)).item()
            learned += packed.num_learned
    return total, learned


def mean_loss(model: MM1, processor: Processor, rows: Rows, settings: TrainingSettings) -> tuple[float, int]:
    """Nats a learned token over all ``rows``, and how many tokens there were.

    Raises:
        DataError: a row cannot be used.
    """
    batches = Batches(rows, processor, settings, packing=settings.pack and can_pack(model))

    def look(packed: Packed) -> Seen:
        return see(model, packed.pictures, trained=frozenset(), batch_size=settings.vision_batch_size)

    try:
        total, learned = losses(model, batches.in_order(len(rows)), look)
    finally:
        batches.close()
    return total / max(learned, 1), learned
