"""The optimizer that a recipe asks for: mlx's own, mlx-lm's schedules, a learning rate for each part."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from mm1_mlx.arrays import flatten
from mm1_mlx.errors import TrainingError
from mm1_mlx.model.mlx_lm_parts import build_schedule
from mm1_mlx.sizing.training import group_updates
from mm1_mlx.training.distributed.adafactor import ShardedAdafactor
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.tuning.settings import PARTS

Schedule = Callable[[mx.array], mx.array]


def learning_rate(recipe: Recipe) -> Schedule:
    """Return the learning rate, before each part's own factor, as a function of the number of updates done."""
    highest, after = recipe.learning_rate, recipe.iters - recipe.warmup
    lowest = highest * recipe.final_rate
    if recipe.schedule == "cosine_decay":
        config = {"name": "cosine_decay", "arguments": [highest, after, lowest]}
    elif recipe.schedule == "linear_decay":
        config = {"name": "linear_schedule", "arguments": [highest, lowest, after]}
    else:
        config = {"name": "linear_schedule", "arguments": [highest, highest, 1]}
    return build_schedule(config | {"warmup": recipe.warmup})


def make_optimizer(recipe: Recipe, processes: Processes | None = None) -> optim.Optimizer:
    """Make the optimizer of a run, which is one for each part where the parts have different learning rates.

    Args:
        recipe: the settings of the run.
        processes: the processes over which each matrix is spread; None where every process has whole matrices.

    Raises:
        TrainingError: the optimizer needs whole matrices, but they are spread over processes.
    """
    schedule = learning_rate(recipe)
    factors = recipe.learning_rate_factors
    if len(set(factors)) == 1:
        return _make_single(recipe, _scale_schedule(schedule, factors[0]), processes)
    parts = [_make_single(recipe, _scale_schedule(schedule, factor), processes) for factor in factors]
    filters = [lambda path, _, part=part: path.startswith(part + ".") for part in PARTS[:-1]]
    return optim.MultiOptimizer(parts, filters)  # the last one takes what no filter takes


def _scale_schedule(schedule: Schedule, factor: float) -> Schedule:
    return schedule if factor == 1 else lambda step: factor * schedule(step)


def _make_single(recipe: Recipe, rate: Schedule, processes: Processes | None) -> optim.Optimizer:
    """Make one optimizer.

    Rows may be spread over processes: AdaFactor, which takes means over rows, has a version for that. Muon needs whole
    matrices. All others treat each number by itself.
    """
    decay = recipe.weight_decay
    if recipe.optimizer == "muon" and processes is not None:
        raise TrainingError(
            "`optimizer` muon makes whole matrices orthogonal, and with `shard` no process has one; take another "
            "optimizer, or train without `shard`."
        )
    if recipe.optimizer == "adafactor":
        if processes is None:
            return optim.Adafactor(rate, relative_step=False, scale_parameter=False)
        return ShardedAdafactor(rate, relative_step=False, scale_parameter=False, processes=processes)
    if recipe.optimizer == "adam":
        return optim.Adam(rate, list(recipe.betas), bias_correction=True)
    if recipe.optimizer == "adamw":
        return optim.AdamW(rate, list(recipe.betas), weight_decay=decay, bias_correction=True)
    made = {"lion": optim.Lion, "muon": optim.Muon, "sgd": optim.SGD}[recipe.optimizer]
    return made(rate, weight_decay=decay)


def evaluate_update(model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Compute the new weights and optimizer state that ``optimizer.update`` has described, a few at a time.

    Computing all at once would need memory for the old and the new values of all weights and for all gradients.
    """
    weights, state = flatten(model.trainable_parameters()), defaultdict(list)
    for name, value in flatten(optimizer.state).items():
        state[weight_of(name)].append(value)
    for keys in group_updates(model.trainable_parameters()):
        mx.eval([[weights.pop(key), *state.pop(key, ())] for key in keys])
    mx.eval(state)


def weight_of(name: str) -> str:
    """Return the key of the weight to which an array of an optimizer's state belongs."""
    return re.sub(r"^states\.\d+\.", "", name).rpartition(".")[0]  # one state for each learning rate


def clip_gradients(gradients: Any, limit: float, norm: mx.array) -> Any:
    """Scale gradients down to a norm of ``limit`` where their norm, ``norm``, is larger; a limit of 0 means none."""
    if not limit:
        return gradients
    factor = mx.minimum(limit / (norm + 1e-6), 1.0)
    return tree_map(lambda g: (g * factor).astype(g.dtype), gradients)
