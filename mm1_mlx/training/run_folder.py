"""A run on disk: its checkpoints, its metrics, and the best of it; enough to go on as if it had never stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mm1_mlx.errors import CheckpointError, MM1Error, TrainingError
from mm1_mlx.files.tensor_files import write_tensors
from mm1_mlx.files.writing import new_file, new_folder
from mm1_mlx.training.distributed.adafactor import COLUMNS
from mm1_mlx.training.distributed.sharding import Shards
from mm1_mlx.training.optimizer import weight_of
from mm1_mlx.training.run import Run


@dataclass
class Progress:
    """How far a run is. An update's rows and its dropout follow from its number and the seed alone."""

    update: int = 0  # done
    learned_tokens: int = 0
    best_val_loss: float | None = None
    best_update: int | None = None


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run; it is made when something is first written there."""

    path: Path

    @property
    def best(self) -> Path:
        """Where the weights are kept that did best on held-out rows."""
        return self.path / "best"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, and keep other runs out of it; the system lets go of it when the process ends, however.

        Raises:
            TrainingError: another run is writing there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        held = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TrainingError(
                    f"another run is writing to {self.path}; let it end, or give another `folder`."
                ) from None
            except OSError:  # a network's disk that knows no locks
                pass
            for torn in (self.path / "checkpoints").glob(".[0-9]*-*"):  # of a process that was killed
                shutil.rmtree(torn, ignore_errors=True)
            yield
        finally:
            os.close(held)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Tell how to go on where something cannot be written.

        Raises:
            TrainingError: it cannot.
        """
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{what} cannot be written: {error}. The last good checkpoint is "
                f"{self.newest() or 'none'}; make room and go on with `resume`."
            ) from None

    # Checkpoints

    def checkpoints(self) -> list[Path]:
        """List the whole checkpoints, the oldest first."""
        found = (self.path / "checkpoints").glob("[0-9]*")
        return sorted(path for path in found if (path / "run.json").exists())

    def newest(self) -> Path | None:
        """Return the checkpoint to go on from."""
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
        """Write weights, optimizer and progress, whole or not at all; then older checkpoints go.

        All processes come here, and the first one writes: nothing on disk tells of shards. It has the weights in
        memory, but of what the optimizer keeps of them one array at a time.

        Args:
            weights: those that are trained, whole.
            optimizer: of the run.
            progress: of the run.
            shards: which parameters are cut.
            run: what the run is. Another one cannot go on from here.

        Raises:
            TrainingError: it cannot be written; earlier checkpoints stay as they are.
        """
        state = dict(sorted(tree_flatten(optimizer.state)))  # in one order everywhere
        keys = {name: _followed(name, value, shards) for name, value in state.items()}
        arrays = (shards.whole(keys[name], value) for name, value in state.items())
        if shards.processes.rank != 0:
            for array in arrays:
                mx.eval(array)
            return
        forms = {name: (shards.whole_shape(keys[name], value), value.dtype) for name, value in state.items()}
        of_weights = {key: (value.shape, value.dtype) for key, value in weights.items()}
        path = self.path / "checkpoints" / f"{progress.update:08d}"
        with self.writing(f"the checkpoint {path}"), new_folder(path, overwrite=True) as made:
            write_tensors(made / "weights.safetensors", of_weights, weights.values())
            write_tensors(made / "optimizer.safetensors", forms, arrays)
            (made / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", "utf-8")
            (made / "run.json").write_text(json.dumps(run.to_dict(), indent=2) + "\n", "utf-8")
        for old in self.checkpoints()[: -run.options.keep]:
            shutil.rmtree(old, ignore_errors=True)

    # Metrics

    @property
    def metrics(self) -> Path:
        """The file with a JSON object for each report."""
        return self.path / "metrics.jsonl"

    def add_line(self, line: dict[str, Any]) -> None:
        """Write one report behind the others."""
        with self.writing(str(self.metrics)), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """Read the reports; a line that a crash has torn is none."""
        found = []
        for line in self.metrics.read_bytes().splitlines() if self.metrics.exists() else ():
            with suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict) and isinstance(line.get("update"), int)]

    def forget_after(self, update: int) -> None:
        """Take out reports of updates that are done again; they would stand there twice."""
        kept = [line for line in self.lines() if line["update"] <= update]
        if self.metrics.exists():
            with new_file(self.metrics) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")


def whole_weights(parameters: Iterable[tuple[str, mx.array]], shards: Shards) -> dict[str, mx.array]:
    """Gather parameters, by key, for the first process. The others have a part of each, and are to come here too."""
    found = {}
    for key, value in parameters:
        whole = shards.whole(key, value)
        mx.eval(whole)
        if shards.processes.rank == 0:
            found[key] = whole
    return found


def saved_run(path: Path) -> Run:
    """Read what run a checkpoint is of.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return Run.from_dict(json.loads((path / "run.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError, MM1Error) as error:
        raise _damaged(path, error) from None


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: optim.Optimizer, *, shards: Shards, run: Run
) -> Progress:
    """Put a checkpoint into a prepared model and its optimizer; of what is cut, this process's share.

    Raises:
        CheckpointError: it is damaged.
        TrainingError: it is of another run; says what differs.
    """
    differences = saved_run(path).differences(run)
    if differences:
        raise TrainingError(
            f"{path} is of another run: {'; '.join(differences)}. Give the same settings, or another `folder`."
        )
    try:
        progress = Progress(**json.loads((path / "progress.json").read_text("utf-8")))
        weights = _read(path / "weights.safetensors", shards.cut)
        state = _read(
            path / "optimizer.safetensors",
            lambda name, value: shards.cut(_followed(name, value, shards), value),
        )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None
    ours = tree_flatten(model.trainable_parameters())
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in ours}:
        raise CheckpointError(f"{path} holds other weights than this run trains; give another `folder`.")
    model.load_weights(list(weights.items()), strict=False)
    optimizer.state = tree_unflatten(list(state.items()))
    return progress


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({error}); delete it to go on from an older one.")


def _read(path: Path, share: Callable[[str, mx.array], mx.array]) -> dict[str, mx.array]:
    """Read this process's share of each tensor of a file, of which one at a time is in memory."""
    tensors = mx.load(str(path))
    for name in list(tensors):
        tensors[name] = share(name, tensors[name])
        mx.eval(tensors[name])
    return tensors


def _followed(name: str, kept: mx.array, shards: Shards) -> str | None:
    """Return the cut parameter whose rows an array of the optimizer's follows, where it does."""
    key = weight_of(name)
    same_everywhere = name.endswith(f".{COLUMNS}") and kept.ndim == 1
    return key if key in shards.rows and not same_everywhere else None
