"""The optimizer that the settings ask for: mlx's own, mlx-lm's schedules, a learning rate for each part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_map

from mm1_mlx.data.settings import TrainingSettings
from mm1_mlx.errors import TrainingError
from mm1_mlx.model.mlx_lm_parts import build_schedule
from mm1_mlx.training.distributed.adafactor import ShardedAdafactor
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.tuning.settings import PARTS

Schedule = Callable[[mx.array], mx.array]


def learning_rate(settings: TrainingSettings) -> Schedule:
    """The rate of the parts with a factor of 1, by the number of updates before."""
    highest, after = settings.learning_rate, settings.iters - settings.warmup
    if settings.schedule == "cosine_decay":
        config = {"name": "cosine_decay", "arguments": [highest, after, 0.0]}
    elif settings.schedule == "linear_decay":
        config = {"name": "linear_schedule", "arguments": [highest, 0.0, after]}
    else:
        config = {"name": "linear_schedule", "arguments": [highest, highest, 1]}
    return build_schedule(config | {"warmup": settings.warmup})


def make_optimizer(settings: TrainingSettings, processes: Processes | None = None) -> optim.Optimizer:
    """One optimizer, or one for each part where the parts have rates of their own.

    Args:
        settings: of the run.
        processes: that have a part of each matrix, where it is cut.

    Raises:
        TrainingError: the optimizer works on whole matrices, and they are cut.
    """
    schedule = learning_rate(settings)
    factors = settings.learning_rate_factors
    if len(set(factors)) == 1:
        return _single(settings, _times(schedule, factors[0]), processes)
    parts = [_single(settings, _times(schedule, factor), processes) for factor in factors]
    filters = [lambda path, _, part=part: path.startswith(part + ".") for part in PARTS[:-1]]
    return optim.MultiOptimizer(parts, filters)  # the last one takes what no filter takes


def _times(schedule: Schedule, factor: float) -> Schedule:
    return schedule if factor == 1 else lambda step: factor * schedule(step)


def _single(settings: TrainingSettings, rate: Schedule, processes: Processes | None) -> optim.Optimizer:
    """AdaFactor takes means over rows; the others but Muon treat each number by itself."""
    decay = settings.weight_decay
    if settings.optimizer == "muon" and processes is not None:
        raise TrainingError(
            "--optimizer muon makes whole matrices orthogonal, and with --shard no process has one; take another "
            "optimizer, or train without --shard."
        )
    if settings.optimizer == "adafactor":
        fixed = {"relative_step": False, "scale_parameter": False}
        if processes is None:
            return optim.Adafactor(rate, **fixed)
        return ShardedAdafactor(rate, **fixed, processes=processes)
    if settings.optimizer == "adam":
        return optim.Adam(rate, bias_correction=True)
    if settings.optimizer == "adamw":
        return optim.AdamW(rate, bias_correction=True, weight_decay=decay)
    made = {"lion": optim.Lion, "muon": optim.Muon, "sgd": optim.SGD}[settings.optimizer]
    return made(rate, weight_decay=decay)


def clipped(gradients: Any, limit: float, norm: mx.array) -> Any:
    """Gradients that have the norm ``norm`` together, made smaller where it is above ``limit`` (0: as they are)."""
    if not limit:
        return gradients
    factor = mx.minimum(limit / (norm + 1e-6), 1.0)
    return tree_map(lambda g: (g * factor).astype(g.dtype), gradients)
