"""A run on disk: what it needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mm1_mlx.checkpoint.save import new_folder
from mm1_mlx.errors import CheckpointError, TrainingError
from mm1_mlx.model.adapters import adapter_weights
from mm1_mlx.model.mm1 import MM1

FOLDER = "checkpoints"


@dataclass
class Progress:
    """How far a run is. An update's rows and its dropout follow from its number and the seed alone."""

    update: int = 0  # done
    learned_tokens: int = 0
    best_val_loss: float | None = None
    best_update: int | None = None


def save_checkpoint(
    folder: Path,
    model: MM1,
    optimizer: optim.Optimizer,
    progress: Progress,
    *,
    run: dict[str, Any],
    keep: int,
) -> Path:
    """Write weights, optimizer and progress, whole or not at all; then older checkpoints go.

    Args:
        folder: of the run.
        run: what the run is: settings, tuning, identities. Another one cannot go on from here.
        keep: checkpoints that stay, this one included.

    Raises:
        TrainingError: it cannot be written; earlier checkpoints stay as they are.
    """
    path = folder / FOLDER / f"{progress.update:08d}"
    try:
        with new_folder(path, overwrite=True) as made:
            mx.save_safetensors(str(made / "weights.safetensors"), adapter_weights(model))
            mx.save_safetensors(str(made / "optimizer.safetensors"), dict(tree_flatten(optimizer.state)))
            (made / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", "utf-8")
            (made / "run.json").write_text(json.dumps(run, indent=2) + "\n", "utf-8")
    except (OSError, RuntimeError) as error:
        raise TrainingError(
            f"the checkpoint {path} cannot be written: {error}. The last good one is "
            f"{newest_checkpoint(folder) or 'none'}; make room and go on with --resume."
        ) from None
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, the oldest first."""
    found = (folder / FOLDER).glob("[0-9]*")
    return sorted(path for path in found if (path / "run.json").exists())


def newest_checkpoint(folder: Path) -> Path | None:
    """The one to go on from."""
    return next(reversed(checkpoints(folder)), None)


def load_checkpoint(path: Path, model: MM1, optimizer: optim.Optimizer, *, run: dict[str, Any]) -> Progress:
    """Put a checkpoint into a prepared model and its optimizer.

    Raises:
        CheckpointError: it is damaged.
        TrainingError: it is of another run; says what differs.
    """
    try:
        found = json.loads((path / "run.json").read_text("utf-8"))
        progress = Progress(**json.loads((path / "progress.json").read_text("utf-8")))
        weights = mx.load(str(path / "weights.safetensors"))
        state = mx.load(str(path / "optimizer.safetensors"))
        mx.eval(weights, state)
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
