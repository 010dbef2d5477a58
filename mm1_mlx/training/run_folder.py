"""A run on disk: what it needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mm1_mlx.errors import CheckpointError, TrainingError
from mm1_mlx.files.tensor_files import write_tensors
from mm1_mlx.files.writing import new_folder
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.distributed.adafactor import COLUMNS
from mm1_mlx.training.distributed.sharding import Shards
from mm1_mlx.tuning.adapters import adapter_weights

FOLDER = "checkpoints"


@dataclass
class Progress:
    """How far a run is. An update's rows and its dropout follow from its number and the seed alone."""

    update: int = 0  # done
    learned_tokens: int = 0
    best_val_loss: float | None = None
    best_update: int | None = None


def whole_weights(model: MM1, shards: Shards) -> dict[str, mx.array]:
    """What is trained, by key, for the first process. The others have a part of it, and are to ask for it too."""
    found = {}
    for key, value in adapter_weights(model).items():
        whole = shards.whole(key, value)
        mx.eval(whole)
        if shards.processes.rank == 0:
            found[key] = whole
    return found


def save_checkpoint(
    folder: Path,
    weights: dict[str, mx.array],
    optimizer: optim.Optimizer,
    progress: Progress,
    *,
    shards: Shards,
    run: dict[str, Any],
    keep: int,
) -> None:
    """Write weights, optimizer and progress, whole or not at all; then older checkpoints go.

    All processes come here, and the first one writes: nothing on disk tells of shards. It has the weights in memory,
    but of what the optimizer keeps of them one array at a time.

    Args:
        folder: of the run.
        weights: those that are trained, whole.
        optimizer: of the run.
        progress: of the run.
        shards: which parameters are cut.
        run: what the run is: settings, tuning, identities. Another one cannot go on from here.
        keep: checkpoints that stay, this one included.

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
    path = folder / FOLDER / f"{progress.update:08d}"
    try:
        with new_folder(path, overwrite=True) as made:
            write_tensors(made / "weights.safetensors", of_weights, weights.values())
            write_tensors(made / "optimizer.safetensors", forms, arrays)
            (made / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", "utf-8")
            (made / "run.json").write_text(json.dumps(run, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise TrainingError(
            f"the checkpoint {path} cannot be written: {error}. The last good one is "
            f"{newest_checkpoint(folder) or 'none'}; make room and go on with --resume."
        ) from None
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, the oldest first."""
    found = (folder / FOLDER).glob("[0-9]*")
    return sorted(path for path in found if (path / "run.json").exists())


def newest_checkpoint(folder: Path) -> Path | None:
    """The one to go on from."""
    return next(reversed(checkpoints(folder)), None)


def load_checkpoint(
    path: Path, model: MM1, optimizer: optim.Optimizer, *, shards: Shards, run: dict[str, Any]
) -> Progress:
    """Put a checkpoint into a prepared model and its optimizer; of what is cut, this process's share.

    Raises:
        CheckpointError: it is damaged.
        TrainingError: it is of another run; says what differs.
    """
    try:
        found = json.loads((path / "run.json").read_text("utf-8"))
        progress = Progress(**json.loads((path / "progress.json").read_text("utf-8")))
        weights = _read(path / "weights.safetensors", shards.cut)
        state = _read(
            path / "optimizer.safetensors",
            lambda name, value: shards.cut(_followed(name, value, shards), value),
        )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it to go on from an older one.") from None
    differences = _differences(found, json.loads(json.dumps(run)))
    if differences:
        raise TrainingError(
            f"{path} is of another run: {'; '.join(differences)}. Give the same settings, or another --adapter-path."
        )
    ours = adapter_weights(model)
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in ours.items()}:
        raise CheckpointError(
            f"{path} holds other weights than this run trains; give another --adapter-path."
        )
    model.load_weights(list(weights.items()), strict=False)
    optimizer.state = tree_unflatten(list(state.items()))
    return progress


def _read(path: Path, share: Callable[[str, mx.array], mx.array]) -> dict[str, mx.array]:
    """This process's share of each tensor of a file, of which one at a time is read."""
    tensors = mx.load(str(path))
    for name in list(tensors):
        tensors[name] = share(name, tensors[name])
        mx.eval(tensors[name])
    return tensors


def _followed(name: str, kept: mx.array, shards: Shards) -> str | None:
    """The cut parameter whose rows an array of the optimizer's follows, where it does."""
    key, _, what = re.sub(r"^states\.\d+\.", "", name).rpartition(".")  # one state for each rate
    same_everywhere = what == COLUMNS and kept.ndim == 1
    return key if key in shards.rows and not same_everywhere else None


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """What differs between two runs, by dotted name."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*there, *here])
        return [
            line
            for key in keys
            for line in _differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if there == here else [f"{name} was {there!r} and is {here!r}"]
