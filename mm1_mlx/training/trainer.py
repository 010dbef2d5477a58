"""The loop: batches in, better weights out. Tuning and pre-training both run it."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mm1_mlx.data.batches import Batches, Rows
from mm1_mlx.data.packing import Packed, can_pack
from mm1_mlx.data.settings import TrainingSettings
from mm1_mlx.errors import TrainingError
from mm1_mlx.files.identity import model_identity, vision_identity
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.causality import require_causality
from mm1_mlx.training.checkpointing import layers_checkpointed
from mm1_mlx.training.distributed.in_step import equally_many, equally_often
from mm1_mlx.training.distributed.lost_process import Watch
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.distributed.sharding import Shards, shard
from mm1_mlx.training.meter import Meter, forget_after
from mm1_mlx.training.objective import objective
from mm1_mlx.training.optimizer import clipped, make_optimizer
from mm1_mlx.training.run_folder import (
    Progress,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    whole_weights,
)
from mm1_mlx.training.validation import losses
from mm1_mlx.tuning.adapters import prepare, trained_parts
from mm1_mlx.tuning.folder import save_adapters
from mm1_mlx.tuning.settings import Tuning
from mm1_mlx.vision.cache import VisionCache, entry_key
from mm1_mlx.vision.look import Seen, see

Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Trains a model on rows, saves as it goes, and goes on where it was stopped.

    Args:
        model: from ``load``, untouched; it is changed in place. With ``shard``, training leaves each process with
            its rows of it.
        processor: from ``load``.
        rows: "train", and "valid" where there is one.
        settings: of the run.
        tuning: which parts learn, and how.
        folder: where the adapter, checkpoints and ``metrics.jsonl`` go.
        vision_cache: keep visual tokens here where image encoder and connector are frozen.
        report: called with every line of ``metrics.jsonl``.

    Raises:
        TrainingError: nothing is trained, the batch does not fit the machines, or the optimizer no shards.
    """

    def __init__(
        self,
        model: MM1,
        processor: Processor,
        rows: dict[str, Rows],
        settings: TrainingSettings,
        tuning: Tuning,
        folder: Path,
        *,
        vision_cache: VisionCache | None = None,
        report: Report = lambda line: None,
    ):
        self.model, self.settings, self.tuning, self.folder = model, settings, tuning, Path(folder)
        self.processes = Processes()
        if settings.batch_size % self.processes.size:
            raise TrainingError(
                f"--batch-size is {settings.batch_size}, expected a multiple of the {self.processes.size} processes."
            )
        self.identity = model_identity(model)
        mx.random.seed(settings.seed)
        prepare(model, tuning)
        self.trained = trained_parts(model)
        if not self.trained:
            raise TrainingError("no part of the model is trained; set --train or --fine-tune-type.")
        self.sharded = settings.shard and self.processes.size > 1
        self.optimizer = make_optimizer(settings, self.processes if self.sharded else None)
        frozen_eyes = not self.trained & {"image_encoder", "connector"}
        self.vision_cache = vision_cache if frozen_eyes else None
        if self.vision_cache is not None:
            vision_identity(model)  # here, not in a thread
        options = {
            "packing": settings.pack and can_pack(model),
            "rank": self.processes.rank,
            "size": self.processes.size,
            "known": self._known,
        }
        self.batches = Batches(rows["train"], processor, settings, **options)
        self.validation = None
        if "valid" in rows:
            self.validation = Batches(rows["valid"], processor, settings, **options)
        self.progress = Progress()
        self._shards: Shards | None = None
        self._watch = Watch(self.processes, self._where)
        self._report = report
        self._stop: str | None = None

    @property
    def run(self) -> dict[str, Any]:
        """What makes this run this run."""
        return {
            "settings": self.settings.to_dict(),
            "tuning": self.tuning.to_dict(),
            "base": self.identity,
            "rows": len(self.batches.rows),
            "processes": self.processes.size,
        }

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False where there is none.

        Raises:
            MM1Error: it is damaged, or of another run.
        """
        path = newest_checkpoint(self.folder)
        if path is None:
            return False
        with self._watch:
            shards = self._begun()
        self.progress = load_checkpoint(path, self.model, self.optimizer, shards=shards, run=self.run)
        if self.processes.rank == 0:
            forget_after(self.folder / "metrics.jsonl", self.progress.update)
        return True

    def train(self) -> Progress:
        """Run to the end, or to a signal that asks to leave; either way the state is on disk.

        Raises:
            DataError: a row cannot be used.
            TrainingError: the loss is no number, a mask is wrong, a checkpoint cannot be written, or another
                process was lost.
        """
        with self._leaving_well(), self._watch:
            self._begun()
            self._require_one_beginning()
            with layers_checkpointed(self.model, on=self.settings.grad_checkpoint):
                self._train()
        self.batches.close()
        if self.validation is not None:
            self.validation.close()
        self.model.eval()
        return self.progress

    def _train(self) -> None:
        settings, done = self.settings, self.progress.update
        gradients_of = nn.value_and_grad(self.model, objective)
        self.folder.mkdir(parents=True, exist_ok=True)
        meter = Meter()
        for sequences in self._in_step(self.batches.updates(done, settings.iters)):
            update = self.progress.update
            if update == done:
                self._check_first(sequences)
                if update == 0:
                    self._validate()
                meter = Meter(waited=self.batches.waited)
            self.model.train()
            self._update(sequences, gradients_of, meter)
            update = self.progress.update
            if update % settings.steps_per_report == 0 or update == settings.iters:
                meter = self._say(meter)
            if update % settings.steps_per_eval == 0 or update == settings.iters:
                self._validate()
            (leaving,) = self._summed(self._stop is not None)  # one process was asked: all leave
            if update % settings.save_every == 0 or update == settings.iters or leaving:
                self._save()
            if leaving:
                self._stop = self._stop or "another process"
                break

    def _begun(self) -> Shards:
        """Cut the model, where asked for, as late as can be: a whole one can be counted and estimated."""
        if self._shards is None:
            self._shards = shard(self.model, self.processes) if self.sharded else Shards(self.processes)
            self.optimizer.init(self.model.trainable_parameters())
        return self._shards

    def _require_one_beginning(self) -> None:
        """A checkpoint that lies on one machine alone would let the processes drift apart."""
        if self.processes.size == 1:
            return
        update, largest = self.progress.update, self.processes.largest
        first, last = -largest(-update), largest(update)
        if first != last:
            raise TrainingError(
                f"a process would go on from update {first}, another from {last}; give all machines the same "
                f"{self.folder / 'checkpoints'}."
            )

    @property
    def held_bytes(self) -> int:
        """Memory of the weights and the optimizer's state in this process."""
        held = tree_flatten([self.model.parameters(), self.optimizer.state])
        return sum(value.nbytes for _, value in held)

    @property
    def stopped_by(self) -> str | None:
        """The signal that ended the run early."""
        return self._stop

    def _update(self, sequences: list[Packed], gradients_of: Callable, meter: Meter) -> None:
        """One step of the optimizer over all sequences of an update."""
        origin = (self.settings.seed, self.progress.update, self.processes.rank)
        mx.random.seed(int(np.random.SeedSequence(origin).generate_state(1, np.uint64)[0]))
        learned, *others = self._summed(
            sum(packed.num_learned for packed in sequences),
            sum(packed.num_tokens for packed in sequences),
            sum(len(packed.ids) for packed in sequences),
            sum(len(packed.pictures) for packed in sequences),
        )
        totals, gradients = self._added_up(sequences, gradients_of)
        gradients, (total, routers) = self._shards.summed(gradients), self._summed(*totals.tolist())
        if not learned:  # all rows of this update were left out
            self.progress.update += 1
            return
        gradients = tree_map(lambda g: g / learned, gradients)
        norm, loss = self._shards.norm(gradients), total / learned
        gradients = clipped(gradients, self.settings.clip_norm, norm)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            self._refuse_to_go_on(loss, sequences)
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        self.progress.update += 1
        self.progress.learned_tokens += learned
        meter.count(total, routers, learned, *others)

    def _added_up(self, sequences: list[Packed], gradients_of: Callable) -> tuple[mx.array, Any]:
        """Losses, of language and of routers beside it, and gradients; those of a single sequence are let go of."""
        totals, gradients = mx.zeros(2), None
        for packed in sequences:
            (whole, loss), own = gradients_of(self.model, packed, self._look(packed))
            totals = totals + mx.stack([loss, whole - loss])
            gradients = own if gradients is None else tree_map(mx.add, gradients, own)
            mx.eval(totals, gradients)
        return totals, gradients or tree_map(mx.zeros_like, self.model.trainable_parameters())

    def _refuse_to_go_on(self, loss: float, sequences: list[Packed]) -> None:
        rows = ", ".join(name for packed in sequences for name in packed.names)
        raise TrainingError(
            f"update {self.progress.update + 1}: the loss is {loss} or its gradient no number. Its rows: {rows}. "
            f"The last good checkpoint is {newest_checkpoint(self.folder) or 'none'}; lower --learning-rate, or look "
            "at these rows."
        )

    def _where(self) -> str:
        """How far the run is, and how it goes on."""
        there = newest_checkpoint(self.folder)
        saved = f"the last good checkpoint is {there}, --resume goes on" if there else "nothing is saved yet"
        return f"It was in update {self.progress.update + 1}; {saved}. Start all processes again."

    def _in_step(self, groups: Iterator[list[Packed]]) -> Iterator[list[Packed]]:
        """Groups of sequences; processes that share layers have as many."""
        return equally_many(groups, self.processes) if self.sharded else groups

    def _look(self, packed: Packed) -> Seen:
        """At the pictures of a sequence."""
        self._watch.progress()
        batch_size = self.settings.vision_batch_size
        seen = see(
            self.model, packed.pictures, trained=self.trained, cache=self.vision_cache, batch_size=batch_size
        )
        return equally_often(self.model, seen, self.processes) if self.sharded else seen

    def _known(self, digest: str) -> bool:
        return self.vision_cache is not None and entry_key(digest, self.model) in self.vision_cache

    def _check_first(self, sequences: list[Packed]) -> None:
        """The mask is right: tried on the sequence with the most rows."""
        if sequences:
            self.model.eval()
            packed = max(sequences, key=lambda packed: len(packed.names))
            require_causality(self.model, packed, self._look(packed))

    def _validate(self) -> None:
        """Loss on rows that are not trained on; the best weights so far are kept."""
        if self.validation is None:
            return
        settings, rows = self.settings, len(self.validation.rows)
        if settings.val_batches > 0:
            rows = min(rows, settings.val_batches * settings.batch_size)
        total, learned = losses(self.model, self._in_step(self.validation.in_order(rows)), self._look)
        total, learned = self._summed(total, learned)
        if not learned:
            return
        loss, progress = total / learned, self.progress
        self._write({"update": progress.update, "val_loss": loss, "val_rows": rows})
        (better,) = self._summed(progress.best_val_loss is None or loss < progress.best_val_loss)
        if better:
            progress.best_val_loss, progress.best_update = loss, progress.update
            if progress.update:
                self._save_adapters(self.folder / "best", whole_weights(self.model, self._shards))

    def _summed(self, *numbers: int | float) -> list[int | float]:
        """Each over all processes."""
        self._watch.progress()
        return self.processes.summed(*numbers)

    def _say(self, meter: Meter) -> Meter:
        """Report what happened, and begin anew."""
        rate = self.optimizer
        rate = rate.optimizers[-1] if hasattr(rate, "optimizers") else rate
        line = meter.line(self.progress.update, float(rate.learning_rate), self.batches.waited)
        self._write(line | {"held_memory": self.held_bytes})
        return Meter(waited=self.batches.waited)

    def _write(self, line: dict[str, Any]) -> None:
        if self.processes.rank != 0:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._report(line)

    def _save(self) -> None:
        weights, keep = whole_weights(self.model, self._shards), self.settings.keep
        options = {"shards": self._shards, "run": self.run, "keep": keep}
        save_checkpoint(self.folder, weights, self.optimizer, self.progress, **options)
        self._save_adapters(self.folder, weights)

    def _save_adapters(self, folder: Path, weights: dict[str, mx.array]) -> None:
        if self.processes.rank == 0:
            save_adapters(self.model, self.tuning, folder, base_identity=self.identity, weights=weights)

    @contextmanager
    def _leaving_well(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the update that is being computed; a second one ends it at once."""

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
