"""The memory that training will take, read off the graph of one step; nothing is computed.

The graph that MLX builds for loss and gradients is walked in order: what an operation writes is held until the last
one that reads it. Layers that are computed twice (gradient checkpointing) take less than it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mm1_mlx.generation.visual_tokens import default_batch_size, view_bytes
from mm1_mlx.model.adapters import PARTS
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.loss import Seen, loss_sum
from mm1_mlx.training.packing import Packed
from mm1_mlx.training.settings import TrainingSettings

VIEWS = {"AsStrided", "Broadcast", "ExpandDims", "Flatten", "Reshape", "Slice", "Split", "Squeeze"}
VIEWS |= {"StopGradient", "Transpose", "Unflatten", "View"}
IN_PLACE = {
    "Abs",
    "Add",
    "AsType",
    "Cos",
    "Divide",
    "Exp",
    "Log",
    "Maximum",
    "Minimum",
    "Multiply",
    "Negative",
}
IN_PLACE |= {"Power", "Rsqrt", "Select", "Sigmoid", "Sin", "Sqrt", "Square", "Subtract", "Tanh"}
STATES = {
    "adamw": 2,
    "adam": 2,
    "lion": 1,
    "muon": 1,
    "sgd": 1,
}  # arrays as large as a weight; adafactor: see below


@dataclass(frozen=True)
class Need:
    """Bytes that a run takes."""

    weights: int  # of the model, adapters included
    gradients: int
    optimizer: int
    activations: int  # of the largest sequence, kept for the backward pass
    pictures: int  # while a batch of views goes through a frozen image encoder

    @property
    def total(self) -> int:
        """Pictures are encoded before activations are there, so the larger of the two counts."""
        return self.weights + self.gradients + self.optimizer + max(self.activations, self.pictures)


def training_need(model: MM1, sequences: Sequence[Packed], settings: TrainingSettings) -> Need:
    """What training a prepared model takes, by the largest of some packed sequences."""
    largest = max(sequences, key=lambda packed: len(packed.ids))
    trained = dict(tree_flatten(model.trainable_parameters()))
    gradients = sum(value.nbytes for value in trained.values())
    seen = _placeholder(model, largest)
    activations = step_peak(model, largest, seen)
    frozen_eyes = not any(name.startswith("image_encoder.") for name in trained)
    batch = settings.vision_batch_size or default_batch_size(model)
    views = min(batch, sum(picture.num_views for picture in largest.pictures))
    return Need(
        weights=sum(value.nbytes for _, value in tree_flatten(model.parameters())),
        gradients=gradients * (2 if len(sequences) > 1 else 1),  # the sum so far, and those of one sequence
        optimizer=_optimizer_bytes(trained, settings.optimizer),
        activations=max(activations - gradients, 0),
        pictures=views * view_bytes(model) if frozen_eyes else 0,
    )


def _optimizer_bytes(trained: dict[str, mx.array], name: str) -> int:
    if name != "adafactor":
        return STATES[name] * sum(value.nbytes for value in trained.values())
    shapes = [
        (value.shape, value.dtype.size) for value in trained.values()
    ]  # a row and a column of each matrix
    return sum(
        size * (math.prod(s) // s[-1] + math.prod(s) // s[-2] if len(s) > 1 else math.prod(s))
        for s, size in shapes
    )


def _placeholder(model: MM1, packed: Packed) -> Seen:
    """Pictures as they come into the loss, without having looked at any."""
    connector, trained = model.config.connector_config, _trained_parts(model)
    if not packed.pictures or not trained & {"image_encoder", "connector"}:
        width = connector.output_dims
        return Seen(visual_tokens=[mx.zeros((p.layout.num_visual_tokens, width)) for p in packed.pictures])
    pixels = [
        mx.zeros((1, *view.size[::-1], 3)) for picture in packed.pictures for view in picture.opened().seen
    ]
    if len({view.shape for view in pixels}) == 1:
        pixels = [mx.concatenate(pixels)]
    if "image_encoder" in trained:
        return Seen(pixels=pixels)
    shapes = [(view, model.image_encoder.grid(view)) for view in pixels]
    width = connector.input_dims
    return Seen(patches=[(mx.zeros((len(view), math.prod(grid), width)), grid) for view, grid in shapes])


def _trained_parts(model: MM1) -> set[str]:
    return {part for part in PARTS if tree_flatten(model[part].trainable_parameters())}


def step_peak(model: MM1, packed: Packed, seen: Seen) -> int:
    """Bytes that loss and gradients of one sequence hold at most, weights and pictures apart."""
    before = model.parameters()
    names, values = zip(*tree_flatten(before), strict=True)
    gradients_of = nn.value_and_grad(model, loss_sum)

    def step(*values: mx.array) -> list[mx.array]:
        model.update(tree_unflatten(list(zip(names, values, strict=True))))
        loss, gradients = gradients_of(model, packed, seen)
        return [loss, *(value for _, value in tree_flatten(gradients))]

    try:
        return graph_peak(step, *values)
    finally:
        model.update(before)


def graph_peak(function: Callable[..., Any], *inputs: mx.array) -> int:
    """Bytes that ``function(*inputs)`` holds at most beyond its inputs, from its graph; nothing is computed."""
    entries: list[dict[str, Any]] = []
    mx.export_function(entries.append, function, *inputs)
    steps = [entry for entry in entries if entry["type"] == "primitive"]
    last = {array[0]: number for number, step in enumerate(steps) for array in step["inputs"]}
    results = [
        array[0] for entry in entries if entry["type"] == "outputs" for array in entry.get("outputs", ())
    ]
    last |= dict.fromkeys(results, len(steps))
    buffer_of: dict[str, int] = {}  # arrays that share memory share a number
    users: dict[int, set[str]] = {}
    sizes: dict[int, int] = {}
    held = peak = 0

    def release(names: Sequence[str]) -> None:
        nonlocal held
        for name in names:
            number = buffer_of.pop(name, None)
            if number is not None:
                users[number].discard(name)
                if not users[number]:
                    held -= sizes.pop(number)

    for place, step in enumerate(steps):
        ended = [array[0] for array in step["inputs"] if last[array[0]] == place]
        if step["name"] in VIEWS:
            number = buffer_of.get(step["inputs"][0][0])
            for array in step["outputs"] if number is not None else ():
                buffer_of[array[0]] = number
                users[number].add(array[0])
        else:
            if step["name"] in IN_PLACE:
                release(ended)
            for array in step["outputs"]:
                number = len(users)
                buffer_of[array[0]], users[number] = number, {array[0]}
                sizes[number] = math.prod(array[1]) * array[2].size
                held += sizes[number]
            peak = max(peak, held)
        release(ended)
        release([array[0] for array in step["outputs"] if array[0] not in last])
    return peak
