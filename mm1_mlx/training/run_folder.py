"""The folder of a run: its checkpoints, its metrics and its best weights, from which the run can be resumed exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_unflatten

from mm1_mlx.arrays import flatten, load_tensors
from mm1_mlx.errors import CheckpointError, ConfigError, MM1Error, TrainingError
from mm1_mlx.files.json_files import write_json
from mm1_mlx.files.json_lines import holds_lines, read_grown, write_line
from mm1_mlx.files.locking import lock_folder
from mm1_mlx.files.tensor_files import write_tensors
from mm1_mlx.files.writing import clean_up, new_file, new_folder
from mm1_mlx.strict import Config
from mm1_mlx.training.distributed.adafactor import COLUMNS
from mm1_mlx.training.distributed.sharding import Shards
from mm1_mlx.training.meter import Tally
from mm1_mlx.training.optimizer import weight_of
from mm1_mlx.training.run import Run


@dataclass(frozen=True)
class Progress(Config):
    """How far a run is. The number of an update and the seed alone decide its rows and its dropout."""

    update: int  # number of updates done
    learned_tokens: int
    best_val_loss: float | None
    best_update: int | None
    since_report: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        known = [
            number for number in (self.update, self.learned_tokens, self.best_update) if number is not None
        ]
        self._require(min(known) >= 0, "a number is below 0.")
        in_reach = self.best_update is None or self.best_update <= self.update
        has_both = (self.best_update is None) == (self.best_val_loss is None)
        self._require(in_reach and has_both, f"best_update is {self.best_update} of {self.update}.")


START = Progress(0, 0, None, None)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run. It is made when something is first written there."""

    path: Path

    @property
    def best(self) -> Path:
        """The folder of the weights with the lowest loss on held-out rows."""
        return self.path / "best"

    @property
    def checkpoint_folder(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def drawing(self) -> Path:
        """The file in which the losses are drawn."""
        return self.path / "loss.png"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, and lock it against other runs. The lock ends with the context, or with the process.

        Raises:
            TrainingError: another run is writing there.
        """
        with ExitStack() as held:
            try:
                held.enter_context(lock_folder(self.path))
            except BlockingIOError:
                raise TrainingError(
                    f"another process is writing to {self.path}; let it end, or give another `folder`."
                ) from None
            for folder in (self.path, self.checkpoint_folder, self.best):
                clean_up(folder)
            for torn in self.checkpoint_folder.glob(".[0-9]*-*"):  # left by an earlier version
                shutil.rmtree(torn, ignore_errors=True)
            yield

    @contextmanager
    def explain_failure(self, what: str) -> Iterator[None]:
        """Turn a failure to write into an error that says how to go on.

        Args:
            what: what is written, for the message.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{what} cannot be written: {error.strerror or error}. The last good checkpoint is "
                f"{self.newest() or 'none'}; make room and go on with `resume`."
            ) from None

    # Checkpoints

    def checkpoints(self) -> list[Path]:
        """List the checkpoints, the oldest first; each was complete when it got its name."""
        found = self.checkpoint_folder.glob("[0-9]*")
        return sorted(path for path in found if path.name.isdecimal() and path.is_dir())

    def newest(self) -> Path | None:
        """Return the newest checkpoint, or None where there is none."""
        return next(reversed(self.checkpoints()), None)

    def save(
        self,
        weights: dict[str, mx.array],
        optimizer: optim.Optimizer,
        progress: Progress,
        *,
        shards: Shards,
        run: Run,
    ) -> None:
        """Write a checkpoint of weights, optimizer and progress, completely or not at all; then delete older ones.

        All processes must call this together, and the first one writes: files are the same with and without shards.
        The first process has all weights in memory, but of the optimizer's state only one whole array at a time.

        Args:
            weights: the trained weights, whole.
            optimizer: the optimizer of the run.
            progress: how far the run is.
            shards: which parameters are cut.
            run: the identity of the run.

        Raises:
            TrainingError: the checkpoint cannot be written; earlier checkpoints stay as they are.
        """
        state = dict(sorted(flatten(optimizer.state).items()))  # so that all processes have the same order
        keys = {name: _find_followed(name, value, shards) for name, value in state.items()}
        arrays = (shards.whole(keys[name], value) for name, value in state.items())
        if shards.processes.rank != 0:
            for array in arrays:
                mx.eval(array)
            return
        forms = {name: (shards.whole_shape(keys[name], value), value.dtype) for name, value in state.items()}
        of_weights = {key: (value.shape, value.dtype) for key, value in weights.items()}
        path = self.checkpoint_folder / f"{progress.update:08d}"
        with self.explain_failure(f"the checkpoint {path}"), new_folder(path, overwrite=True) as made:
            write_tensors(made / "weights.safetensors", of_weights, weights.values())
            write_tensors(made / "optimizer.safetensors", forms, arrays)
            (made / "progress.json").write_text(json.dumps(progress.to_dict()) + "\n", "utf-8")
            write_json(made / "run.json", run.to_dict())
        for old in self.checkpoints()[: -run.options.keep]:
            shutil.rmtree(old, ignore_errors=True)

    # Metrics

    @property
    def metrics(self) -> Path:
        """The file with one JSON object for each report."""
        return self.path / "metrics.jsonl"

    def add_line(self, line: dict[str, Any]) -> None:
        """Append one report to the metrics."""
        with self.explain_failure(str(self.metrics)), self.metrics.open("a", encoding="utf-8") as file:
            file.write(write_line(line))

    def lines(self) -> list[dict[str, Any]]:
        """Read all reports, leaving out lines that a crash has cut off."""
        return [line for line in read_grown(self.metrics) if _is_report(line)]

    def forget_after(self, update: int) -> None:
        """Delete the reports of updates after ``update``, because a resumed run makes these updates again."""
        kept = [line for line in self.lines() if line["update"] <= update]
        if self.metrics.exists():
            own = partial(holds_lines, is_own=_is_report)
            with new_file(self.metrics, is_kind=own, kind="file of a run's reports") as temporary:
                temporary.write_text("".join(map(write_line, kept)), "utf-8")


def _is_report(values: Any) -> bool:
    """Tell whether values are a report of a run: the number of an update, and a loss if there is one."""
    if not isinstance(values, dict) or type(values.get("update")) is not int:
        return False
    return all(type(values[name]) in (int, float) for name in ("loss", "val_loss") if name in values)


def gather_weights(parameters: Mapping[str, mx.array], shards: Shards) -> dict[str, mx.array]:
    """Gather whole parameters, by key, in the first process; the others get an empty mapping.

    All processes must call this together, because each has a part of every parameter that is cut.
    """
    found = {}
    for key, value in parameters.items():
        whole = shards.whole(key, value)
        mx.eval(whole)
        if shards.processes.rank == 0:
            found[key] = whole
    return found


def read_run(path: Path) -> Run:
    """Read the identity of the run that wrote a checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    try:
        return Run.from_dict(json.loads((path / "run.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, MM1Error) as error:
        raise damage_error(path, error) from None


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: optim.Optimizer, *, shards: Shards, run: Run
) -> Progress:
    """Load a checkpoint into a prepared model and its optimizer, and return the progress that it holds.

    Of arrays that are cut, each process takes its own share.

    Raises:
        CheckpointError: the checkpoint is damaged.
        TrainingError: another run wrote it; the message says what differs.
    """
    differences = read_run(path).differences(run)
    if differences:
        raise TrainingError(
            f"{path} is of another run: {'; '.join(differences)}. Give the same settings, or another `folder`."
        )
    try:
        progress = Progress.from_dict(json.loads((path / "progress.json").read_text("utf-8")))
        weights = _read_share(path / "weights.safetensors", shards.cut)
        state = _read_share(
            path / "optimizer.safetensors",
            lambda name, value: shards.cut(_find_followed(name, value, shards), value),
        )
    except (OSError, RuntimeError, ValueError, TypeError, ConfigError) as error:
        raise damage_error(path, error) from None
    if progress.update != int(path.name):
        raise damage_error(path, f"progress.json says update {progress.update}")
    if _forms(weights) != _forms(flatten(model.trainable_parameters())):
        raise CheckpointError(f"{path} holds other weights than this run trains; give another `folder`.")
    if _forms(state) != _forms(flatten(optimizer.state)):
        raise damage_error(path, "optimizer.safetensors is of another optimizer, or of other weights")
    model.load_weights(list(weights.items()), strict=False)
    optimizer.state = tree_unflatten(list(state.items()))
    return progress


def damage_error(path: Path, reason: object) -> CheckpointError:
    """Return the error to raise for a checkpoint that cannot be what was written."""
    return CheckpointError(f"{path} is damaged ({reason}); delete it to go on from an older one.")


def _forms(tensors: Mapping[str, mx.array]) -> dict[str, tuple[Any, ...]]:
    """Return the shape of each tensor and whether it holds floats, whose size an optimizer may change."""
    return {name: (value.shape, mx.issubdtype(value.dtype, mx.floating)) for name, value in tensors.items()}


def _read_share(path: Path, share: Callable[[str, mx.array], mx.array]) -> dict[str, mx.array]:
    """Read this process's share of each tensor of a file, with only one whole tensor in memory at a time."""
    tensors, _ = load_tensors(path)
    for name in list(tensors):
        tensors[name] = share(name, tensors[name])
        mx.eval(tensors[name])
    return tensors


def _find_followed(name: str, kept: mx.array, shards: Shards) -> str | None:
    """Return the key of the cut parameter whose rows an array of the optimizer's state shares, or None."""
    key = weight_of(name)
    same_everywhere = name.endswith(f".{COLUMNS}") and kept.ndim == 1
    return key if key in shards.rows and not same_everywhere else None
