"""The training loop, which tuning and every stage of pre-training share."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mm1_mlx.arrays import flatten
from mm1_mlx.errors import TrainingError
from mm1_mlx.training.checkpointing import checkpoint_layers
from mm1_mlx.training.distributed.lost_process import Watch
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.distributed.sharding import Shards, shard
from mm1_mlx.training.meter import Meter, Tally
from mm1_mlx.training.optimizer import evaluate_update, make_optimizer
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.run import Run
from mm1_mlx.training.run_folder import (
    START,
    Progress,
    RunFolder,
    damage_error,
    gather_weights,
    load_checkpoint,
)
from mm1_mlx.training.step import compute_update
from mm1_mlx.training.task import MicroBatch, Task
from mm1_mlx.training.validation import sum_losses

Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Trains a model, saves checkpoints, and resumes from them.

    Args:
        task: the model, its recipe, batches and loss. With ``shard``, each process holds only its own shard of
            the weights when training ends.
        options: when to report, validate and save.
        folder: the folder for checkpoints, ``metrics.jsonl`` and what the task saves.
        report: function that is called with every line of ``metrics.jsonl``.

    Raises:
        TrainingError: nothing is trained, the processes cannot share the batch equally, or the optimizer cannot work
            with shards.
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
        self.folder, self.processes, self.progress = RunFolder(Path(folder)), Processes(), START
        if self.recipe.batch_size % self.processes.size:
            raise TrainingError(
                f"`batch_size` is {self.recipe.batch_size}, expected a multiple of the {self.processes.size} processes."
            )
        if not flatten(self.model.trainable_parameters()):
            raise TrainingError("no part of the model is trained; set `train` or `fine_tune_type`.")
        self.sharded = self.recipe.shard and self.processes.size > 1
        self.optimizer = make_optimizer(self.recipe, self.processes if self.sharded else None)
        self._shards, self._is_prepared = Shards(self.processes), False
        self._watch = Watch(self.processes, self._where)
        self._report, self._stop_reason = report, None
        self._folder_lock, self._meter = ExitStack(), Meter(task.measures)
        self._found = self.folder.newest()

    @property
    def run(self) -> Run:
        """The identity of the run, which its checkpoints hold."""
        return Run(self.recipe, self.options, self.task.run | {"processes": self.processes.size})

    @property
    def held_bytes(self) -> int:
        """Bytes of the weights and the optimizer's state in this process."""
        held = flatten([self.model.parameters(), self.optimizer.state])
        return sum(value.nbytes for value in held.values())

    @property
    def stopped_by(self) -> str | None:
        """Why the run ended early: the name of a signal, or the reason given to ``stop``."""
        return self._stop_reason

    def stop(self, reason: str) -> None:
        """Have the run save and end after the current update.

        Args:
            reason: what ``stopped_by`` will be.
        """
        self._stop_reason = reason

    def resume(self) -> bool:
        """Load the newest checkpoint, and return whether there was one. Either all processes call this, or none.

        Raises:
            MM1Error: the checkpoint is damaged, or another run wrote it.
        """
        path = self._found = self.folder.newest()
        with self._watch:
            self._require_one_beginning(0 if path is None else int(path.name))
            if path is None:
                return False
            self._prepare()
        self.progress = load_checkpoint(path, self.model, self.optimizer, shards=self._shards, run=self.run)
        counted = self.progress.since_report
        if counted.measured and len(counted.measured) != len(self.task.measures):
            raise damage_error(path, f"progress.json has {len(counted.measured)} measures")
        try:
            self.task.take_counts(counted.of_task)
        except (TypeError, ValueError) as error:
            raise damage_error(path, error) from None
        return True

    def train(self) -> Progress:
        """Train until the last update, or until a first SIGINT, SIGTERM or ``stop``; then save a checkpoint.

        Raises:
            DataError: a row cannot be used.
            TrainingError: the loss is not a number, an attention mask is wrong, nothing could be learned, a checkpoint
                cannot be written, another run writes to the folder, or another process was lost.
        """
        # The backward pass gathers a sharded layer's weights and computes the layer again in any case.
        recompute = self.recipe.grad_checkpoint and not self.sharded
        recomputing = checkpoint_layers(self.model, on=recompute)
        updates = self.task.updates(self.progress.update, self.recipe.iters)
        with self._end_on_signals(), self._watch:
            self._prepare()
            with recomputing, closing(updates), self._folder_lock:
                self._train(updates)
        self.model.eval()
        return self.progress

    def _train(self, updates: Iterator[list[MicroBatch]]) -> None:
        gradients_of = nn.value_and_grad(self.model, self.task.loss)
        begun = False
        for batches in updates:
            if not begun:
                self._begin(batches)
                self._meter = self._new_meter(self.progress.since_report)
                begun = True
            self._update(batches, gradients_of)
            if self._is_time(self.options.steps_per_report):
                self._report_metrics()
                self._meter = self._new_meter()
            if self._is_time(self.options.steps_per_eval):
                self._validate()
            # How many processes were asked to stop; if one was, all do, so that none waits for the others.
            (leaving,) = self._sum_numbers(self._stop_reason is not None)
            if leaving or self._is_time(self.options.save_every):
                self._save()
            if leaving:
                self._stop_reason = self._stop_reason or "another process"
                break

    def _begin(self, batches: Sequence[MicroBatch]) -> None:
        """Lock the folder, drop what was logged after the checkpoint, check the model, and validate in a new run."""
        if self.processes.rank == 0:
            self._folder_lock.enter_context(self.folder.lock())
            self._require_newest()
            self.folder.forget_after(self.progress.update or -1)  # -1: a new run drops update 0's report, too
        self.model.eval()
        self.task.require_sound(batches, self._look)
        if self.progress.update == 0:
            self._validate()

    def _require_newest(self) -> None:
        """Refuse to go on where another run has left something while this one was made ready."""
        there = self.folder.newest()
        if there != self._found:
            raise TrainingError(
                f"another run has left {there} meanwhile; `resume` goes on from it, or give another `folder`."
            )

    def _update(self, batches: Sequence[MicroBatch], gradients_of: Callable[..., Any]) -> None:
        """Seed, compute and apply one update; apply nothing if none of its rows was usable."""
        self.model.train()
        origin = (self.recipe.seed, self.progress.update, self.processes.rank)
        mx.random.seed(int(np.random.SeedSequence(origin).generate_state(1, np.uint64)[0]))
        update, gradients = compute_update(
            self.task, batches, gradients_of, self._shards, look=self._look, sum_numbers=self._sum_numbers
        )
        if update.learned:  # 0 where all rows were left out
            if not update.is_finite():
                self._refuse_to_go_on(update.loss, batches)
            self.optimizer.update(self.model, gradients)
            del gradients
            evaluate_update(self.model, self.optimizer)
            self._meter.count(update)
        done = self.progress
        self.progress = replace(
            done, update=done.update + 1, learned_tokens=done.learned_tokens + update.learned
        )

    def _is_time(self, every: int) -> bool:
        """Tell whether something done after ``every`` updates is due now; everything is due after the last one."""
        return self.progress.update % every == 0 or self.progress.update == self.recipe.iters

    def _validate(self) -> None:
        """Measure the loss on held-out rows, and save the weights if they are the best so far; not before update 1."""
        rows = self.task.num_held_out(self.options.val_batches)
        if not rows:
            return
        self.model.eval()
        with closing(self.task.held_out(rows)) as groups:
            total, learned = sum_losses(groups, self._compute_losses)
        total, learned = self._sum_numbers(total, learned)
        if not learned:
            raise TrainingError(f"none of {rows:,} held-out rows could be used; why stands above.")
        loss, progress = total / learned, self.progress
        self._write({"update": progress.update, "val_loss": loss, "val_rows": rows})
        best = math.inf if progress.best_val_loss is None else progress.best_val_loss
        (better,) = self._sum_numbers(loss < best)
        if better:
            self.progress = replace(progress, best_val_loss=loss, best_update=progress.update)
            if progress.update:
                self._keep(self.folder.best, self._gather_trained())

    def _compute_losses(self, group: Sequence[MicroBatch]) -> Iterator[mx.array]:
        """Yield the loss of each micro-batch, summed over its learned tokens."""
        looks = self.task.looks(group, self._look)
        for batch in group:
            _, (loss, *_) = self.task.loss(self.model, batch, next(looks))
            yield loss

    def _look(self, batch: MicroBatch) -> Any:
        """Compute what needs no gradient, such as frozen parts, after noting for the watch that the run goes on."""
        self._watch.progress()
        return self.task.look(batch)

    def _sum_numbers(self, *numbers: int | float) -> list[Any]:
        """Add each number up over all processes, after noting for the watch that the run goes on."""
        self._watch.progress()
        return self.processes.sum_numbers(*numbers)

    def _new_meter(self, before: Tally | None = None) -> Meter:
        return Meter(self.task.measures, waited=self.task.waited, before=before)

    def _report_metrics(self) -> None:
        """Write and report the numbers since the last report; the learning rate is the decoder's."""
        optimizer = self.optimizer
        if isinstance(optimizer, optim.MultiOptimizer):
            optimizer = optimizer.optimizers[-1]  # the parts in order: encoder, connector, decoder
        line = self._meter.line(self.progress.update, float(optimizer.learning_rate), self.task.waited)
        self._write(line | {"held_memory": self.held_bytes} | self.task.gather_metrics())

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
        trained = self._gather_trained()
        self._keep(self.folder.path, trained)  # first, so that a checkpoint never lacks its saved weights
        counted = self._meter.tally(self.task.waited, self.task.gather_counts())
        progress = replace(self.progress, since_report=counted)
        self.folder.save(trained, self.optimizer, progress, shards=self._shards, run=self.run)
        self._found = self.folder.newest()

    def _gather_trained(self) -> dict[str, mx.array]:
        return gather_weights(flatten(self.model.trainable_parameters()), self._shards)

    def _keep(self, folder: Path, weights: dict[str, mx.array]) -> None:
        """Have the task save the trained weights in ``folder``, with the frozen ones if it asks for all."""
        if self.task.keeps_frozen:
            trained = flatten(self.model.trainable_parameters())
            every = flatten(self.model.parameters())
            frozen = {key: value for key, value in every.items() if key not in trained}
            weights = weights | gather_weights(frozen, self._shards)
        if self.processes.rank == 0:
            with self.folder.explain_failure(f"what was learned for {folder}"):
                self.task.save(folder, weights)

    def _prepare(self) -> None:
        """Cut the model into shards if the recipe asks for it, and prepare the optimizer, once.

        This happens as late as possible, because parameters and memory are counted on the whole model.
        """
        if self._is_prepared:
            return
        if self.sharded:
            self._shards = shard(self.model, self.processes)
        self.optimizer.init(self.model.trainable_parameters())
        self._is_prepared = True

    def _require_one_beginning(self, update: int) -> None:
        """Refuse to begin when processes have different newest checkpoints, since they would train apart."""
        if self.processes.size == 1:
            return
        largest = self.processes.largest
        first, last = -largest(-update), largest(update)  # the smallest and the largest of all processes
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
        """Return a text that says how far the run is and how to resume it."""
        there = self.folder.newest()
        saved = f"the last good checkpoint is {there}; resume from it" if there else "nothing is saved yet"
        return f"It was in update {self.progress.update + 1}; {saved}. Start all processes again."

    @contextmanager
    def _end_on_signals(self) -> Iterator[None]:
        """Have SIGINT or SIGTERM end the run after the current update, or at once if a stop was already asked for.

        Once another process is lost, SIGTERM is ignored for good: a launcher then sends it to those that are left, which
        end in any case, and have yet to say why.
        """

        def leave(number: int, _: Any) -> None:
            if self._stop_reason:
                raise KeyboardInterrupt
            self._stop_reason = signal.Signals(number).name

        before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            if self._watch.lost:
                before[signal.SIGTERM] = signal.SIG_IGN
            for number, handler in before.items():
                signal.signal(number, handler)
