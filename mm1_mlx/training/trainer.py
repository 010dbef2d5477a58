"""The loop: batches in, better weights out. Whatever is trained, and in whichever stage, goes through it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mm1_mlx.errors import TrainingError
from mm1_mlx.training.checkpointing import layers_checkpointed
from mm1_mlx.training.distributed.lost_process import Watch
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.distributed.sharding import Shards, shard
from mm1_mlx.training.meter import Meter
from mm1_mlx.training.optimizer import evaluate_update, make_optimizer
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.run import Run
from mm1_mlx.training.run_folder import Progress, RunFolder, load_checkpoint, whole_weights
from mm1_mlx.training.step import update_of
from mm1_mlx.training.task import MicroBatch, Task
from mm1_mlx.training.validation import losses

Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Trains a model, saves as it goes, and goes on where it was stopped.

    Args:
        task: the model, its recipe, batches and loss. With ``shard``, training leaves each process with its rows
            of the model.
        options: when to report, validate and save.
        folder: where checkpoints, ``metrics.jsonl`` and what the task saves go.
        report: called with every line of ``metrics.jsonl``.

    Raises:
        TrainingError: nothing is trained, the batch does not fit the machines, or the optimizer no shards.
    """

    def __init__(
        self,
        task: Task,
        options: RunOptions,
        folder: str | Path,
        *,
        report: Report = lambda line: None,
    ):
        self.task, self.model, self.recipe, self.options = task, task.model, task.recipe, options
        self.folder, self.processes, self.progress = RunFolder(Path(folder)), Processes(), Progress()
        if self.recipe.batch_size % self.processes.size:
            raise TrainingError(
                f"`batch_size` is {self.recipe.batch_size}, expected a multiple of the {self.processes.size} processes."
            )
        if not tree_flatten(self.model.trainable_parameters()):
            raise TrainingError("no part of the model is trained; set `train` or `fine_tune_type`.")
        self.sharded = self.recipe.shard and self.processes.size > 1
        self.optimizer = make_optimizer(self.recipe, self.processes if self.sharded else None)
        self._shards: Shards | None = None
        self._watch = Watch(self.processes, self._where)
        self._report, self._stop = report, None
        self._held = ExitStack()  # the folder, while it is written to

    @property
    def run(self) -> Run:
        """What makes this run this run."""
        return Run(self.recipe, self.options, self.task.run | {"processes": self.processes.size})

    @property
    def held_bytes(self) -> int:
        """Memory of the weights and the optimizer's state in this process."""
        held = tree_flatten([self.model.parameters(), self.optimizer.state])
        return sum(value.nbytes for _, value in held)

    @property
    def stopped_by(self) -> str | None:
        """Why the run ended early: a signal's name, or what ``stop`` was told."""
        return self._stop

    def stop(self, reason: str) -> None:
        """End the run, and save it, after the update that is being computed."""
        self._stop = reason

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False where there is none. All processes are to come here, or none.

        Raises:
            MM1Error: it is damaged, or of another run.
        """
        path = self.folder.newest()
        with self._watch:
            self._require_one_beginning(0 if path is None else int(path.name))
            if path is None:
                return False
            shards = self._begun()
        self.progress = load_checkpoint(path, self.model, self.optimizer, shards=shards, run=self.run)
        return True

    def train(self) -> Progress:
        """Run to the end, or to a signal that asks to leave; either way the state is on disk.

        Raises:
            DataError: a row cannot be used.
            TrainingError: the loss is no number, a mask is wrong, nothing could be learned, a checkpoint cannot be
                written, another run writes there, or another process was lost.
        """
        checkpoint = (
            self.recipe.grad_checkpoint and not self.sharded
        )  # sharded layers are computed twice anyway
        twice = layers_checkpointed(self.model, on=checkpoint)
        updates = self.task.updates(self.progress.update, self.recipe.iters)
        with self._leaving_well(), self._watch:
            self._begun()
            with twice, closing(updates), self._held:
                self._train(updates)
        self.model.eval()
        return self.progress

    def _train(self, updates: Iterator[list[MicroBatch]]) -> None:
        gradients_of = nn.value_and_grad(self.model, self.task.loss)
        meter = None
        for batches in updates:
            if meter is None:
                self._begin(batches)
                meter = self._new_meter()
            self._update(batches, gradients_of, meter)
            if self._is_time(self.options.steps_per_report):
                self._say(meter)
                meter = self._new_meter()
            if self._is_time(self.options.steps_per_eval):
                self._validate()
            (leaving,) = self._summed(self._stop is not None)  # one process was asked: all leave
            if leaving or self._is_time(self.options.save_every):
                self._save()
            if leaving:
                self._stop = self._stop or "another process"
                break

    def _begin(self, batches: Sequence[MicroBatch]) -> None:
        """Do what comes before the first update of this process's life."""
        if self.processes.rank == 0:
            self._held.enter_context(self.folder.alone())
            self.folder.forget_after(
                self.progress.update or -1
            )  # before the first, nothing of an earlier run
        self.model.eval()
        self.task.require_sound(batches, self._look)
        if self.progress.update == 0:
            self._validate()

    def _update(self, batches: Sequence[MicroBatch], gradients_of: Callable[..., Any], meter: Meter) -> None:
        """Make one step of the optimizer."""
        self.model.train()
        origin = (self.recipe.seed, self.progress.update, self.processes.rank)
        mx.random.seed(int(np.random.SeedSequence(origin).generate_state(1, np.uint64)[0]))
        update, gradients = update_of(
            self.task, batches, gradients_of, self._shards, look=self._look, summed=self._summed
        )
        if update.learned:  # not all rows were left out
            if not update.is_finite():
                self._refuse_to_go_on(update.loss, batches)
            self.optimizer.update(self.model, gradients)
            del gradients
            evaluate_update(self.model, self.optimizer)
            self.progress.learned_tokens += update.learned
            meter.count(update)
        self.progress.update += 1

    def _is_time(self, every: int) -> bool:
        """Say whether something that is done every so many updates is done after this one; all is after the last."""
        return self.progress.update % every == 0 or self.progress.update == self.recipe.iters

    def _validate(self) -> None:
        """Measure the loss on rows that are not trained on; the best weights so far are kept."""
        rows = self.task.num_held_out(self.options.val_batches)
        if not rows:
            return
        self.model.eval()
        with closing(self.task.held_out(rows)) as groups:
            total, learned = losses(groups, self._losses_of)
        total, learned = self._summed(total, learned)
        if not learned:
            raise TrainingError(f"none of {rows:,} held-out rows could be used; why stands above.")
        loss, progress = total / learned, self.progress
        self._write({"update": progress.update, "val_loss": loss, "val_rows": rows})
        (better,) = self._summed(progress.best_val_loss is None or loss < progress.best_val_loss)
        if better:
            progress.best_val_loss, progress.best_update = loss, progress.update
            if progress.update:
                self._keep(self.folder.best, self._learned())

    def _losses_of(self, group: Sequence[MicroBatch]) -> Iterator[mx.array]:
        looks = self.task.looks(group, self._look)
        for batch in group:
            _, (loss, *_) = self.task.loss(self.model, batch, next(looks))
            yield loss

    def _look(self, batch: MicroBatch) -> Any:
        """Look at the pictures of a micro-batch."""
        self._watch.progress()
        return self.task.look(batch)

    def _summed(self, *numbers: int | float) -> list[int | float]:
        """Add each up over all processes."""
        self._watch.progress()
        return self.processes.summed(*numbers)

    def _new_meter(self) -> Meter:
        return Meter(self.task.measures, waited=self.task.waited)

    def _say(self, meter: Meter) -> None:
        """Report what happened."""
        rate = self.optimizer
        rate = rate.optimizers[-1] if hasattr(rate, "optimizers") else rate
        line = meter.line(self.progress.update, float(rate.learning_rate), self.task.waited)
        self._write(line | {"held_memory": self.held_bytes} | self.task.told())

    def _write(self, line: dict[str, Any]) -> None:
        if self.processes.rank == 0:
            self.folder.add_line(line)
            self._report(line)

    def _save(self) -> None:
        if not self.progress.learned_tokens:
            raise TrainingError(
                f"nothing was learned in {self.progress.update:,} updates, since none of their rows could be used; why "
                "stands above."
            )
        learned = self._learned()
        self._keep(self.folder.path, learned)  # first: a checkpoint says that what it led to is there
        self.folder.save(learned, self.optimizer, self.progress, shards=self._shards, run=self.run)

    def _learned(self) -> dict[str, mx.array]:
        return whole_weights(tree_flatten(self.model.trainable_parameters()), self._shards)

    def _keep(self, folder: Path, weights: dict[str, mx.array]) -> None:
        if self.task.keeps_frozen:
            learned = {key for key, _ in tree_flatten(self.model.trainable_parameters())}
            every = tree_flatten(self.model.parameters())
            frozen = [(key, value) for key, value in every if key not in learned]
            weights = weights | whole_weights(frozen, self._shards)
        if self.processes.rank == 0:
            with self.folder.writing(f"what was learned for {folder}"):
                self.task.save(folder, weights)

    def _begun(self) -> Shards:
        """Cut the model, where asked for, as late as can be: a whole one can be counted and estimated."""
        if self._shards is None:
            self._shards = shard(self.model, self.processes) if self.sharded else Shards(self.processes)
            self.optimizer.init(self.model.trainable_parameters())
        return self._shards

    def _require_one_beginning(self, update: int) -> None:
        """Refuse a checkpoint that lies on one machine alone: it would let the processes drift apart."""
        if self.processes.size == 1:
            return
        largest = self.processes.largest
        first, last = -largest(-update), largest(update)
        if first != last:
            raise TrainingError(
                f"a process would go on from update {first}, another from {last}; give all machines the same "
                f"{self.folder.path / 'checkpoints'}."
            )

    def _refuse_to_go_on(self, loss: float, batches: Sequence[MicroBatch]) -> None:
        rows = ", ".join(name for batch in batches for name in batch.names)
        raise TrainingError(
            f"update {self.progress.update + 1}: the loss is {loss} or its gradient no number. Its rows: {rows}. "
            f"The last good checkpoint is {self.folder.newest() or 'none'}; lower `learning_rate`, or look "
            "at these rows."
        )

    def _where(self) -> str:
        """Say how far the run is, and how it goes on."""
        there = self.folder.newest()
        saved = f"the last good checkpoint is {there}; resume from it" if there else "nothing is saved yet"
        return f"It was in update {self.progress.update + 1}; {saved}. Start all processes again."

    @contextmanager
    def _leaving_well(self) -> Iterator[None]:
        """Have SIGINT and SIGTERM end the run after the update that is being computed, and a second one at once."""

        def leave(number: int, _: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = signal.Signals(number).name

        before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
