"""What a stage would learn, and the memory it would need, found without computing or reading any weight."""

from __future__ import annotations

from typing import NoReturn

from mm1_mlx.data.batches import RowBatches
from mm1_mlx.errors import DataError
from mm1_mlx.model.mm1 import count_parameters
from mm1_mlx.sizing.need import Need
from mm1_mlx.training.dry_run import describe_learning, estimate_need
from mm1_mlx.training.pretraining.batches import Rows, StageBatches
from mm1_mlx.training.pretraining.beginning import Beginning
from mm1_mlx.training.pretraining.decisions import Decided
from mm1_mlx.training.pretraining.recipe import Stage
from mm1_mlx.training.pretraining.towers import estimate_contrastive, make_towers
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import train_fully


def foresee(decided: Decided, beginning: Beginning, rows: Rows) -> tuple[tuple[str, ...], Need]:
    """Return lines that say what a stage would learn, and the memory that its first update would need.

    Args:
        decided: the stage and its settings.
        beginning: the model that the stage starts with, whose weights need not be read; it is prepared for training.
        rows: the rows of the stage.

    Raises:
        DataError: no row of the first update can be used.
        MM1Error: the model cannot be trained in this way.
    """
    stage, recipe, model = decided.stage, decided.recipe, beginning.model
    prepare(model, train_fully(stage.parts))
    learned = describe_learning(model)
    batches = StageBatches(stage, beginning, rows, recipe).train
    update = batches.peek(0) or _refuse(batches, rows, stage)
    if stage.contrastive is None:
        longest = max(len(packed.ids) for packed in update)
        about = [f"sequences of an update: {len(update):,}, of at most {longest:,} tokens"]
        if recipe.shard:
            about.append("what shard spreads over processes is told as one process without it would hold it")
        return (*learned, *about), estimate_need(model, update, recipe, keep=stage.options.cached_bytes)
    joint, size = make_towers(model, stage.contrastive), stage.contrastive.chunk_size
    beside = count_parameters(joint) - count_parameters(model.image_encoder)
    about = [
        f"text tower and readouts, let go of at the end: {beside:,} parameters learn",
        f"pairs of an update: {recipe.rows_per_update:,}, computed {size:,} at a time",
    ]
    return (*learned, *about), estimate_contrastive(joint, update, recipe)


def _refuse(batches: RowBatches, rows: Rows, stage: Stage) -> NoReturn:
    """Raise an error that says why no row of the first update can be used."""
    reason = "`batch_size` is smaller than the number of processes"
    for number in rows.train.rows_of(0)[:1]:
        try:
            batches.item(number)
        except DataError as error:
            reason = str(error)
    raise DataError(f"no row of the first update of stage {stage.name} can be used: {reason}")
