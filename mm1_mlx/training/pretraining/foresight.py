"""What a stage would learn and take, told before it begins; nothing is computed, no weight is read."""

from __future__ import annotations

from collections.abc import Iterator

from mm1_mlx.errors import DataError
from mm1_mlx.machine import machine_memory
from mm1_mlx.model.mm1 import count_parameters
from mm1_mlx.training.dry_run import foreseen, learning, told
from mm1_mlx.training.pretraining.batches import Rows, StageBatches
from mm1_mlx.training.pretraining.beginning import Beginning
from mm1_mlx.training.pretraining.decisions import Decided
from mm1_mlx.training.pretraining.towers import contrastive_need, towers
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import in_full


def foresight(decided: Decided, beginning: Beginning, rows: Rows) -> Iterator[str]:
    """Yield what a stage would learn, and the memory it takes by the rows of its first update, line by line.

    Args:
        decided: the stage and its settings.
        beginning: the model that it starts with, by its sizes alone; it is prepared.
        rows: of the stage.

    Raises:
        DataError: no row of the first update can be used.
        MM1Error: the model cannot be trained so.
    """
    stage, recipe, model = decided.stage, decided.recipe, beginning.model
    prepare(model, in_full(stage.parts))
    yield from rows.lines(recipe.iters)
    yield from learning(model)
    update = StageBatches(stage, beginning, rows, recipe).train.unopened(0)
    if not update:
        raise DataError(f"no row of the first update of stage {stage.name} can be used.")
    if stage.contrastive is None:
        longest = max(len(packed.ids) for packed in update)
        yield f"sequences of an update: {len(update):,}, of at most {longest:,} tokens"
        if recipe.shard:
            yield "what shard spreads over processes is told as one process without it would hold it"
        keep = stage.options.cached_bytes
        need = foreseen(model, update, recipe, keep=keep)
    else:
        joint = towers(model, stage.contrastive)
        beside = count_parameters(joint) - count_parameters(model.image_encoder)
        yield f"text tower and readouts, let go of at the end: {beside:,} parameters learn"
        yield f"pairs of an update: {recipe.rows_per_update:,}, computed {stage.contrastive.chunk_size:,} at a time"
        need = contrastive_need(joint, update, recipe)
    yield from told(need, machine_memory(), recipe)
