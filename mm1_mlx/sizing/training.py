"""The memory that a training run will take, foreseen from the graphs of its steps; nothing is computed.

MLX does not export a layer that it computes twice (``mx.checkpoint``). So gradient checkpointing is reckoned with as
a sum: what all layers read, and the larger of the backward pass of one layer and of all that is outside of them. What
no graph shows is what the trainer holds beside it: the sum of the gradients so far where an update has several
sequences.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress, dropwhile, repeat
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from mm1_mlx.errors import TrainingError
from mm1_mlx.model.layer_calls import layers_of, redirect_calls
from mm1_mlx.model.mlx_lm_parts import QuantizedSwitchLinear, SwitchLinear
from mm1_mlx.sizing.graph import LATE, arrays_in, held_bytes, traced, with_arrays
from mm1_mlx.sizing.need import Need
from mm1_mlx.tuning.adapters import tunings_of

TOGETHER = 1 << 20  # bytes of parameters whose optimizer steps are computed together; a larger one is alone

Loss = Callable[[nn.Module, Any], mx.array]  # of a model, and of the arrays of a sequence's pictures
Function = Callable[..., Any]


def training_need(
    model: nn.Module,
    loss: Loss,
    seen: Any,
    *,
    optimizer: optim.Optimizer,
    clip: Callable[[Any], Any],
    several: bool = False,
    pictures: int = 0,
) -> Need:
    """Return what training a prepared model takes.

    Args:
        loss: of the largest sequence of an update.
        seen: the pictures of that sequence, as the loss takes them; the sizes of their arrays alone count.
        optimizer: that has updated nothing yet.
        clip: what is done to gradients before.
        several: there are several sequences in an update.
        pictures: bytes that encoding pictures takes, outside of the loss.

    Raises:
        TrainingError: the model has an operation that MLX does not show.
    """
    gradients = _bytes(model.trainable_parameters())
    try:
        with _in_training(model):
            kept, checkpointed = _kept(model, loss, seen), _checkpointed(model, loss, seen)
        updating = _updating(model, copy.deepcopy(optimizer), clip)
    except ValueError as error:
        raise TrainingError(
            f"the memory that this model takes cannot be foreseen ({error}); train it with `force`."
        ) from None
    optimizer.init(model.trainable_parameters())
    adapters = _adapters(model)
    return Need(
        weights=_bytes(model.parameters()) - adapters,
        pictures=pictures,
        adapters=adapters,
        optimizer=_bytes(optimizer.state),
        gradients=gradients * (2 if several else 1),
        activations=_bytes(seen) + max(kept - gradients, 0),
        checkpointed=_bytes(seen) + checkpointed,
        updating=updating,
    )


def _bytes(tree: Any) -> int:
    return sum(array.nbytes for array in arrays_in(tree))


def _adapters(model: nn.Module) -> int:
    """Return the bytes of what is trained in parts that have adapters."""
    return sum(
        _bytes(model[part].trainable_parameters())
        for tuning in tunings_of(model)
        for part, own in tuning.parts.items()
        if own.has_adapters
    )


@contextmanager
def _in_training(model: nn.Module) -> Iterator[None]:
    """Inside, dropout is on."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


@contextmanager
def _same_parameters(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Gives those of ``module``, which it has again afterwards."""
    parameters = module.parameters()
    try:
        yield parameters
    finally:
        module.update(parameters)


def updated_together(parameters: Any) -> Iterator[list[str]]:
    """Yield the keys of parameters, a few at a time: an optimizer's step is computed for each few alone.

    So there are new weights beside old ones for a few of them, never for all.
    """
    keys, size = [], 0
    for key, value in tree_flatten(parameters):
        if keys and size + value.nbytes > TOGETHER:
            yield keys
            keys, size = [], 0
        keys.append(key)
        size += value.nbytes
    if keys:
        yield keys


def _updating(model: nn.Module, optimizer: optim.Optimizer, clip: Callable[[Any], Any]) -> int:
    """Return the bytes of gradients and of what is new, beside weights and state, while the optimizer works."""
    weights = dict(tree_flatten(model.trainable_parameters()))
    groups = [{key: weights[key] for key in keys} for keys in updated_together(weights)]
    largest = max(groups, key=_bytes)
    optimizer.init(largest)

    def update(weights: dict[str, Any], state: dict[str, Any], gradients: dict[str, Any]) -> Any:
        optimizer.state, gradients = state, clip(gradients)
        return optimizer.apply_gradients(gradients, weights), optimizer.state, gradients

    graph = traced(update, largest, optimizer.state, largest)  # gradients are as large as what they are of
    return _bytes(weights) + max(held_bytes(graph, inputs_go=True), default=0)


def _kept(model: nn.Module, loss: Loss, seen: Any) -> int:
    """Return the bytes of a step, its gradients included, where all that the backward pass needs is kept."""
    gradients_of = nn.value_and_grad(model, loss)

    def step(parameters: dict[str, Any], seen: Any) -> Any:
        model.update(parameters)
        return gradients_of(model, seen)

    with _experts_used_evenly(model), _same_parameters(model) as parameters:
        return max(held_bytes(traced(step, parameters, seen)))


def _checkpointed(model: nn.Module, loss: Loss, seen: Any) -> int:
    """Return the bytes of a step, without most of its gradients, where layers keep nothing but what they read."""
    layers = layers_of(model)
    in_layers = {id(array) for layer in layers for array in arrays_in(layer.trainable_parameters())}
    is_outside = [id(array) not in in_layers for array in arrays_in(model.trainable_parameters())]
    calls: list[_LayerCall] = []
    nudges: Iterator[mx.array] = repeat(mx.array(0.0))  # added to what passes by a layer

    def pass_by(function: Function, layer: nn.Module, x: mx.array, *args: Any, **options: Any) -> Any:
        found = function(layer, x, *args, **options)
        first, *rest = arrays_in(found)
        if (first.shape, first.dtype) != (x.shape, x.dtype):
            return found  # counted as if it kept all
        shapes = (x, args, options)
        calls.append(_LayerCall(function, layer, *with_arrays(shapes, map(mx.zeros_like, arrays_in(shapes)))))
        return with_arrays(found, [x + next(nudges).astype(x.dtype), *map(mx.zeros_like, rest)])

    def step(parameters: dict[str, Any], seen: Any, zeros: list[mx.array]) -> Any:
        def loss_of(trained: dict[str, Any], zeros: list[mx.array]) -> mx.array:
            nonlocal nudges
            model.update(trained)
            nudges = iter(zeros)
            return loss(model, seen)

        model.update(parameters)
        value, found = mx.value_and_grad(loss_of, (0, 1))(model.trainable_parameters(), zeros)
        return found[1], value, list(compress(arrays_in(found[0]), is_outside))

    with _experts_used_evenly(model), redirect_calls(model, layers, pass_by):
        loss(model, seen)
        number = len(calls)
        with _same_parameters(model) as parameters:
            outside = traced(step, parameters, seen, [mx.array(0.0)] * number)
        held = held_bytes(outside)
        made = {array.name: place for place, step in enumerate(outside.steps) for array in step.outputs}
        beside = [
            held[min(made[array.name] + LATE + 1, len(held) - 1)] for array in outside.outputs[:number]
        ]  # while a layer's gradients are made
        backward = [call.backward_bytes() for call in calls[:number]]
    largest = max([*held, *map(sum, zip(backward, beside, strict=True))])
    if not any(is_outside):  # before the first layer that learns no gradient is needed
        calls = list(dropwhile(lambda call: not call.trained, calls))
    return sum(call.x.nbytes for call in calls[:number]) + largest


@dataclass(frozen=True)
class _LayerCall:
    """A call of a layer; its arrays tell shapes and types alone."""

    function: Function
    layer: nn.Module
    x: mx.array  # what the layer gives first is like it
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def trained(self) -> list[mx.array]:
        return arrays_in(self.layer.trainable_parameters())

    def backward_bytes(self) -> int:
        """Return what computing the layer again and its gradients takes."""
        layer = self.layer

        def backward(
            x: mx.array, gradient: mx.array, others: Any, parameters: dict[str, Any]
        ) -> list[mx.array]:
            args, options = others
            layer.update(parameters)
            trained = layer.trainable_parameters()

            def forward(x: mx.array, *weights: mx.array) -> mx.array:
                layer.update(with_arrays(trained, weights))
                return arrays_in(self.function(layer, x, *args, **options))[0]

            return mx.vjp(forward, [x, *arrays_in(trained)], [gradient])[1]

        with _same_parameters(layer) as parameters:
            graph = traced(backward, self.x, self.x, (self.args, self.options), parameters)
        return max(held_bytes(graph))


@contextmanager
def _experts_used_evenly(model: nn.Module) -> Iterator[None]:
    """Inside, experts that learn take equal shares of the rows: MLX does not export how each gets its gradient."""

    def product(x: mx.array, weights: mx.array, indices: mx.array) -> mx.array:
        num_experts, width, depth = weights.shape
        rows = mx.broadcast_to(x, (*indices.shape, *x.shape[-2:])).reshape(-1, depth)
        shares = num_experts if len(rows) % num_experts == 0 else 1
        found = rows.reshape(shares, -1, depth) @ weights[:shares].swapaxes(1, 2)
        return found.reshape(*indices.shape, 1, width)

    def call(_: Function, layer: nn.Module, x: mx.array, indices: mx.array, **options: Any) -> mx.array:
        if "linear" not in layer:
            return product(x, layer.weight, indices)
        change = product(product(layer.dropout(x), layer.lora_a, indices), layer.lora_b, indices)
        return layer.linear(x, indices, **options) + (layer.scale * change).astype(x.dtype)

    kinds = SwitchLinear | QuantizedSwitchLinear
    experts = [module for module in model.modules() if isinstance(module.get("linear", module), kinds)]
    learning = [module for module in experts if arrays_in(module.trainable_parameters())]
    with redirect_calls(model, learning, call):
        yield
