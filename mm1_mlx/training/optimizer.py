"""The optimizer that a recipe asks for: mlx's own, mlx-lm's schedules, a learning rate for each part."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from mm1_mlx.errors import TrainingError
from mm1_mlx.model.mlx_lm_parts import build_schedule
from mm1_mlx.sizing.training import updated_together
from mm1_mlx.training.distributed.adafactor import ShardedAdafactor
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.tuning.settings import PARTS

Schedule = Callable[[mx.array], mx.array]


def learning_rate(recipe: Recipe) -> Schedule:
    """Return the rate of the parts with a factor of 1, by the number of updates before."""
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
    """Make one optimizer, or one for each part where the parts have rates of their own.

    Args:
        recipe: of the run.
        processes: that have a part of each matrix, where it is cut.

    Raises:
        TrainingError: the optimizer works on whole matrices, and they are cut.
    """
    schedule = learning_rate(recipe)
    factors = recipe.learning_rate_factors
    if len(set(factors)) == 1:
        return _single(recipe, _times(schedule, factors[0]), processes)
    parts = [_single(recipe, _times(schedule, factor), processes) for factor in factors]
    filters = [lambda path, _, part=part: path.startswith(part + ".") for part in PARTS[:-1]]
    return optim.MultiOptimizer(parts, filters)  # the last one takes what no filter takes


def _times(schedule: Schedule, factor: float) -> Schedule:
    return schedule if factor == 1 else lambda step: factor * schedule(step)


def _single(recipe: Recipe, rate: Schedule, processes: Processes | None) -> optim.Optimizer:
    """Make one; AdaFactor takes means over rows, the others but Muon treat each number by itself."""
    decay = recipe.weight_decay
    if recipe.optimizer == "muon" and processes is not None:
        raise TrainingError(
            "`optimizer` muon makes whole matrices orthogonal, and with `shard` no process has one; take another "
            "optimizer, or train without `shard`."
        )
    if recipe.optimizer == "adafactor":
        fixed = {"relative_step": False, "scale_parameter": False}
        if processes is None:
            return optim.Adafactor(rate, **fixed)
        return ShardedAdafactor(rate, **fixed, processes=processes)
    if recipe.optimizer == "adam":
        return optim.Adam(rate, list(recipe.betas), bias_correction=True)
    if recipe.optimizer == "adamw":
        return optim.AdamW(rate, list(recipe.betas), weight_decay=decay, bias_correction=True)
    made = {"lion": optim.Lion, "muon": optim.Muon, "sgd": optim.SGD}[recipe.optimizer]
    return made(rate, weight_decay=decay)


def evaluate_update(model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Compute the weights and the state that ``optimizer.update`` has asked for, a few at a time.

    All at once would hold the old and the new ones of all, and every gradient until the last.
    """
    weights, state = dict(tree_flatten(model.trainable_parameters())), defaultdict(list)
    for name, value in tree_flatten(optimizer.state):
        state[weight_of(name)].append(value)
    for keys in updated_together(model.trainable_parameters()):
        mx.eval([[weights.pop(key), *state.pop(key, ())] for key in keys])
    mx.eval(state)


def weight_of(name: str) -> str:
    """Return the key of the weight that an array of an optimizer's state is about."""
    return re.sub(r"^states\.\d+\.", "", name).rpartition(".")[0]  # one state for each rate


def clipped(gradients: Any, limit: float, norm: mx.array) -> Any:
    """Make gradients, whose norm is ``norm`` together, smaller where it is above ``limit`` (0: leave them)."""
    if not limit:
        return gradients
    factor = mx.minimum(limit / (norm + 1e-6), 1.0)
    return tree_map(lambda g: (g * factor).astype(g.dtype), gradients)
