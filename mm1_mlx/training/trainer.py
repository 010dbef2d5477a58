"""The loop: batches in, better weights out. Tuning and pre-training both run it."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mm1_mlx.checkpoint.adapters import save_adapters
from mm1_mlx.checkpoint.identity import model_identity, vision_identity
from mm1_mlx.checkpoint.save import new_file
from mm1_mlx.errors import TrainingError
from mm1_mlx.generation.vision_cache import VisionCache, entry_key
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.adapters import PARTS, Tuning, prepare
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.batches import Batches, Rows
from mm1_mlx.training.causality import require_causality
from mm1_mlx.training.checkpointing import layers_checkpointed
from mm1_mlx.training.evaluate import losses
from mm1_mlx.training.loss import loss_sum, see
from mm1_mlx.training.optimizer import clipped, make_optimizer
from mm1_mlx.training.packing import Packed, can_pack
from mm1_mlx.training.settings import TrainingSettings
from mm1_mlx.training.state import Progress, load_checkpoint, newest_checkpoint, save_checkpoint

Report = Callable[[dict[str, Any]], None]


@dataclass
class Meter:
    """What happened since the last report."""

    start: float = field(default_factory=time.perf_counter)
    loss: float = 0.0
    learned: int = 0
    tokens: int = 0
    places: int = 0  # padding included
    pictures: int = 0
    updates: int = 0
    waited: float = 0.0


class Trainer:
    """Trains a model on rows, saves as it goes, and goes on where it was stopped.

    Args:
        model: from ``load``, untouched; it is changed in place.
        processor: from ``load``.
        rows: "train", and "valid" where there is one.
        settings: of the run.
        tuning: which parts learn, and how.
        folder: where the adapter, checkpoints and ``metrics.jsonl`` go.
        vision_cache: keep visual tokens here where image encoder and connector are frozen.
        report: called with every line of ``metrics.jsonl``.

    Raises:
        TrainingError: nothing is trained, or the batch does not fit the machines.
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
        self.group = mx.distributed.init()
        if settings.batch_size % self.group.size():
            raise TrainingError(
                f"--batch-size is {settings.batch_size}, expected a multiple of the {self.group.size()} processes."
            )
        self.identity = model_identity(model)
        mx.random.seed(settings.seed)
        prepare(model, tuning)
        if not tree_flatten(model.trainable_parameters()):
            raise TrainingError("no part of the model is trained; set --train or --fine-tune-type.")
        self.trained = frozenset(part for part in PARTS if tree_flatten(model[part].trainable_parameters()))
        self.optimizer = make_optimizer(settings)
        self.optimizer.init(model.trainable_parameters())
        frozen_eyes = not self.trained & {"image_encoder", "connector"}
        self.vision_cache = vision_cache if frozen_eyes else None
        if self.vision_cache is not None:
            vision_identity(model)  # here, not in a thread
        options = {
            "packing": settings.pack and can_pack(model),
            "rank": self.group.rank(),
            "size": self.group.size(),
            "known": self._known,
        }
        self.batches = Batches(rows["train"], processor, settings, **options)
        self.validation = None
        if "valid" in rows:
            self.validation = Batches(rows["valid"], processor, settings, **options)
        self.progress = Progress()
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
            "processes": self.group.size(),
        }

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False where there is none.

        Raises:
            MM1Error: it is damaged, or of another run.
        """
        path = newest_checkpoint(self.folder)
        if path is None:
            return False
        self.progress = load_checkpoint(path, self.model, self.optimizer, run=self.run)
        if self.group.rank() == 0:
            self._forget_metrics_after(self.progress.update)
        return True

    def train(self) -> Progress:
        """Run to the end, or to a signal that asks to leave; either way the state is on disk.

        Raises:
            DataError: a row cannot be used.
            TrainingError: the loss is no number, a mask is wrong, or a checkpoint cannot be written.
        """
        settings, done = self.settings, self.progress.update
        gradients_of = nn.value_and_grad(self.model, loss_sum)
        self.folder.mkdir(parents=True, exist_ok=True)
        meter = Meter()
        with self._leaving_well(), layers_checkpointed(self.model, on=settings.grad_checkpoint):
            for sequences in self.batches.updates(done, settings.iters):
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
                leaving = self._summed(int(self._stop is not None)) > 0  # one process asked: all leave
                if update % settings.save_every == 0 or update == settings.iters or leaving:
                    self._save()
                if leaving:
                    self._stop = self._stop or "another process"
                    break
        self.batches.close()
        if self.validation is not None:
            self.validation.close()
        self.model.eval()
        return self.progress

    @property
    def stopped_by(self) -> str | None:
        """The signal that ended the run early."""
        return self._stop

    def _update(self, sequences: list[Packed], gradients_of: Callable, meter: Meter) -> None:
        """One step of the optimizer over all sequences of an update."""
        origin = (self.settings.seed, self.progress.update, self.group.rank())
        mx.random.seed(int(np.random.SeedSequence(origin).generate_state(1, np.uint64)[0]))
        learned = self._summed(sum(packed.num_learned for packed in sequences))
        total, gradients = mx.array(0.0), None
        for packed in sequences:
            loss, own = gradients_of(self.model, packed, self._see(packed))
            total = total + loss
            gradients = own if gradients is None else tree_map(mx.add, gradients, own)
            mx.eval(total, gradients)
        if self.group.size() > 1:
            gradients = gradients or tree_map(mx.zeros_like, self.model.trainable_parameters())
            gradients = tree_map(lambda g: mx.distributed.all_sum(g, group=self.group), gradients)
            total = mx.distributed.all_sum(total, group=self.group)
        if not learned:  # all rows of this update were left out
            self.progress.update += 1
            return
        gradients = tree_map(lambda g: g / learned, gradients)
        gradients, norm = clipped(gradients, self.settings.clip_norm)
        loss = total.item() / learned
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            self._refuse_to_go_on(loss, sequences)
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        self.progress.update += 1
        self.progress.learned_tokens += learned
        meter.updates += 1
        meter.loss += loss * learned
        meter.learned += learned
        meter.tokens += self._summed(sum(packed.num_tokens for packed in sequences))
        meter.places += self._summed(sum(len(packed.ids) for packed in sequences))
        meter.pictures += self._summed(sum(len(packed.pictures) for packed in sequences))

    def _refuse_to_go_on(self, loss: float, sequences: list[Packed]) -> None:
        rows = ", ".join(name for packed in sequences for name in packed.names)
        raise TrainingError(
            f"update {self.progress.update + 1}: the loss is {loss} or its gradient no number. Its rows: {rows}. "
            f"The last good checkpoint is {newest_checkpoint(self.folder) or 'none'}; lower --learning-rate, or look "
            "at these rows."
        )

    def _see(self, packed: Packed) -> Any:
        return see(
            self.model,
            packed,
            trained=self.trained,
            cache=self.vision_cache,
            batch_size=self.settings.vision_batch_size,
        )

    def _known(self, digest: str) -> bool:
        return self.vision_cache is not None and entry_key(digest, self.model) in self.vision_cache

    def _check_first(self, sequences: list[Packed]) -> None:
        """The mask is right: tried on the sequence with the most rows."""
        if sequences:
            self.model.eval()
            packed = max(sequences, key=lambda packed: len(packed.names))
            require_causality(self.model, packed, self._see(packed))

    def _validate(self) -> None:
        """Loss on rows that are not trained on; the best weights so far are kept."""
        if self.validation is None:
            return
        settings, rows = self.settings, len(self.validation.rows)
        if settings.val_batches > 0:
            rows = min(rows, settings.val_batches * settings.batch_size)
        sequences = self.validation.in_order(rows)
        total, learned = losses(
            self.model, sequences, cache=self.vision_cache, batch_size=settings.vision_batch_size
        )
        total, learned = self._summed(total), self._summed(learned)
        if not learned:
            return
        loss, progress = total / learned, self.progress
        self._write({"update": progress.update, "val_loss": loss, "val_rows": rows})
        if progress.best_val_loss is None or loss < progress.best_val_loss:
            progress.best_val_loss, progress.best_update = loss, progress.update
            if progress.update and self.group.rank() == 0:
                save_adapters(self.model, self.tuning, self.folder / "best", base_identity=self.identity)

    def _summed(self, value: float | int) -> Any:
        """Over all processes."""
        if self.group.size() == 1:
            return value
        return type(value)(mx.distributed.all_sum(mx.array(float(value)), group=self.group).item())

    def _say(self, meter: Meter) -> Meter:
        """Report what happened, and begin anew."""
        seconds = max(time.perf_counter() - meter.start, 1e-9)
        rate = self.optimizer
        rate = rate.optimizers[-1] if hasattr(rate, "optimizers") else rate
        self._write(
            {
                "update": self.progress.update,
                "loss": meter.loss / max(meter.learned, 1),
                "learning_rate": float(rate.learning_rate),
                "updates_per_second": meter.updates / seconds,
                "tokens_per_second": meter.tokens / seconds,
                "pictures_per_second": meter.pictures / seconds,
                "padding": 1 - meter.tokens / max(meter.places, 1),
                "data_wait": (self.batches.waited - meter.waited) / seconds,
                "peak_memory": mx.get_peak_memory(),
            }
        )
        return Meter(waited=self.batches.waited)

    def _write(self, line: dict[str, Any]) -> None:
        if self.group.rank() != 0:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._report(line)

    def _forget_metrics_after(self, update: int) -> None:
        """Lines of updates that are done again would stand twice."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
            kept = "".join(f"{line}\n" for line in lines if json.loads(line)["update"] <= update)
            with new_file(path) as temporary:
                temporary.write_text(kept, "utf-8")

    def _save(self) -> None:
        if self.group.rank() == 0:
            keep = self.settings.keep
            save_checkpoint(self.folder, self.model, self.optimizer, self.progress, run=self.run, keep=keep)
            save_adapters(self.model, self.tuning, self.folder, base_identity=self.identity)

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
