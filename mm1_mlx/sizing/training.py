"""An estimate of the memory that training will need, from the graphs of its steps; nothing is computed.

MLX does not export a layer that it computes twice (``mx.checkpoint``). So with gradient checkpointing the estimate is
a sum: the inputs of all layers, and the larger of the backward pass of one layer and of everything outside the layers.
One part is in no graph and is added: the sum of the gradients so far, if an update has several sequences.
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
from mlx.utils import tree_unflatten

from mm1_mlx.arrays import flatten
from mm1_mlx.errors import TrainingError
from mm1_mlx.model.layer_calls import layers_of, redirect_calls
from mm1_mlx.model.mlx_lm_parts import QuantizedSwitchLinear, SwitchLinear
from mm1_mlx.sizing.graph import LATE, arrays_in, held_bytes, replace_arrays, trace
from mm1_mlx.sizing.need import Need
from mm1_mlx.tuning.adapters import tunings_of

TOGETHER = 1 << 20  # bytes of parameters whose optimizer steps are computed together

Loss = Callable[..., mx.array]  # takes a model, and the arrays of a sequence's pictures
Function = Callable[..., Any]


def estimate_training(
    model: nn.Module,
    loss: Loss,
    seen: Any,
    *,
    optimizer: optim.Optimizer,
    clip: Callable[[Any], Any],
    several: bool = False,
    pictures: int = 0,
) -> Need:
    """Estimate the memory that training a prepared model needs.

    Args:
        model: prepared for training; only its sizes count.
        loss: the loss of the largest sequence of an update.
        seen: the pictures of that sequence, as the loss takes them; only the sizes of their arrays count.
        optimizer: an optimizer that has updated nothing yet.
        clip: function that clips the gradients.
        several: an update has several sequences.
        pictures: bytes that encoding pictures needs outside of the loss.

    Raises:
        TrainingError: the model has an operation that MLX does not export.
    """
    gradients = _bytes(model.trainable_parameters())
    try:
        with _turn_on_dropout(model):
            kept, checkpointed = _step_bytes(model, loss, seen), _checkpointed_bytes(model, loss, seen)
        updating = _update_bytes(model, copy.deepcopy(optimizer), clip)
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
    """Return the bytes of the trained weights in parts that have adapters."""
    return sum(
        _bytes(model[part].trainable_parameters())
        for tuning in tunings_of(model)
        for part, own in tuning.parts.items()
        if own.has_adapters
    )


@contextmanager
def _turn_on_dropout(model: nn.Module) -> Iterator[None]:
    """Turn dropout on while the context lasts."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


@contextmanager
def _keep_parameters(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Give the parameters of ``module``, and put them back when the context ends."""
    parameters = module.parameters()
    try:
        yield parameters
    finally:
        module.update(parameters)


def group_updates(parameters: Any) -> Iterator[list[str]]:
    """Yield the keys of parameters in small groups, for each of which the optimizer's step is computed separately.

    So only a few weights are in memory twice, with their old and their new values.
    """
    keys, size = [], 0
    for key, value in flatten(parameters).items():
        if keys and size + value.nbytes > TOGETHER:
            yield keys
            keys, size = [], 0
        keys.append(key)
        size += value.nbytes
    if keys:
        yield keys


def _update_bytes(model: nn.Module, optimizer: optim.Optimizer, clip: Callable[[Any], Any]) -> int:
    """Return the bytes of gradients and new values while the optimizer works, besides weights and state."""
    weights = flatten(model.trainable_parameters())
    groups = [{key: weights[key] for key in keys} for keys in group_updates(weights)]
    largest = tree_unflatten(list(max(groups, key=_bytes).items()))  # as an optimizer for each part splits it
    optimizer.init(largest)

    def update(weights: dict[str, Any], state: dict[str, Any], gradients: dict[str, Any]) -> Any:
        optimizer.state, gradients = state, clip(gradients)
        return optimizer.apply_gradients(gradients, weights), optimizer.state, gradients

    graph = trace(update, largest, optimizer.state, largest)  # gradients are as large as their weights
    return _bytes(weights) + max(held_bytes(graph, inputs_go=True), default=0)


def _step_bytes(model: nn.Module, loss: Loss, seen: Any) -> int:
    """Return the bytes of a step and its gradients, if everything that the backward pass needs is kept."""
    gradients_of = nn.value_and_grad(model, loss)

    def step(parameters: dict[str, Any], seen: Any) -> Any:
        model.update(parameters)
        return gradients_of(model, seen)

    with _use_experts_evenly(model), _keep_parameters(model) as parameters:
        return max(held_bytes(trace(step, parameters, seen)))


def _checkpointed_bytes(model: nn.Module, loss: Loss, seen: Any) -> int:
    """Return the bytes of a step, without most of its gradients, if layers keep only their inputs."""
    layers = layers_of(model)
    in_layers = {id(array) for layer in layers for array in arrays_in(layer.trainable_parameters())}
    is_outside = [id(array) not in in_layers for array in arrays_in(model.trainable_parameters())]
    calls: list[_LayerCall] = []
    nudges: Iterator[mx.array] = repeat(mx.array(0.0))  # added to what bypasses a layer

    def pass_by(function: Function, layer: nn.Module, x: mx.array, *args: Any, **options: Any) -> Any:
        found = function(layer, x, *args, **options)
        first, *rest = arrays_in(found)
        if (first.shape, first.dtype) != (x.shape, x.dtype):
            return found  # this layer cannot be bypassed: count it as if it kept everything
        shapes = (x, args, options)
        calls.append(
            _LayerCall(function, layer, *replace_arrays(shapes, map(mx.zeros_like, arrays_in(shapes))))
        )
        return replace_arrays(found, [x + next(nudges).astype(x.dtype), *map(mx.zeros_like, rest)])

    def step(parameters: dict[str, Any], seen: Any, zeros: list[mx.array]) -> Any:
        def loss_of(trained: dict[str, Any], zeros: list[mx.array]) -> mx.array:
            nonlocal nudges
            model.update(trained)
            nudges = iter(zeros)
            return loss(model, seen)

        model.update(parameters)
        value, found = mx.value_and_grad(loss_of, (0, 1))(model.trainable_parameters(), zeros)
        return found[1], value, list(compress(arrays_in(found[0]), is_outside))

    with _use_experts_evenly(model), redirect_calls(model, layers, pass_by):
        loss(model, seen)
        number = len(calls)
        with _keep_parameters(model) as parameters:
            outside = trace(step, parameters, seen, [mx.array(0.0)] * number)
        held = held_bytes(outside)
        made = {array.name: place for place, step in enumerate(outside.steps) for array in step.outputs}
        beside = [
            held[min(made[array.name] + LATE + 1, len(held) - 1)] for array in outside.outputs[:number]
        ]  # while a layer's gradients are made
        backward = [call.backward_bytes() for call in calls[:number]]
    largest = max([*held, *map(sum, zip(backward, beside, strict=True))])
    if not any(is_outside):  # no gradient is needed before the first layer that learns
        calls = list(dropwhile(lambda call: not call.trained, calls))
    return sum(call.x.nbytes for call in calls[:number]) + largest


@dataclass(frozen=True)
class _LayerCall:
    """A call of a layer, with arrays that have only the right shapes and types."""

    function: Function
    layer: nn.Module
    x: mx.array  # the layer's first output has the same shape and type
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def trained(self) -> list[mx.array]:
        return arrays_in(self.layer.trainable_parameters())

    def backward_bytes(self) -> int:
        """Return the bytes that computing the layer again and its gradients needs."""
        layer = self.layer

        def backward(
            x: mx.array, gradient: mx.array, others: Any, parameters: dict[str, Any]
        ) -> list[mx.array]:
            args, options = others
            layer.update(parameters)
            trained = layer.trainable_parameters()

            def forward(x: mx.array, *weights: mx.array) -> mx.array:
                layer.update(replace_arrays(trained, weights))
                return arrays_in(self.function(layer, x, *args, **options))[0]

            return mx.vjp(forward, [x, *arrays_in(trained)], [gradient])[1]

        with _keep_parameters(layer) as parameters:
            graph = trace(backward, self.x, self.x, (self.args, self.options), parameters)
        return max(held_bytes(graph))


@contextmanager
def _use_experts_evenly(model: nn.Module) -> Iterator[None]:
    """Give experts that learn equal shares of the rows while the context lasts.

    MLX cannot export the gradients of its own products for experts, so plain products of equal size stand in for them.
    """

    def product(x: mx.array, weights: mx.array, indices: mx.array) -> mx.array:
        num_experts, width, depth = weights.shape
        rows = mx.broadcast_to(x, (*indices.shape, *x.shape[-2:])).reshape(-1, depth)
        shares = num_experts if len(rows) % num_experts == 0 else 1
        found = rows.reshape(shares, -1, depth) @ weights[:shares].swapaxes(1, 2)
        return found.reshape(*indices.shape, 1, width)

    def call(_: Function, layer: Any, x: mx.array, indices: mx.array, **options: Any) -> mx.array:
        if "linear" not in layer:
            return product(x, layer.weight, indices)
        change = product(product(layer.dropout(x), layer.lora_a, indices), layer.lora_b, indices)
        return layer.linear(x, indices, **options) + (layer.scale * change).astype(x.dtype)

    kinds = SwitchLinear | QuantizedSwitchLinear
    experts = [module for module in model.modules() if isinstance(module.get("linear", module), kinds)]
    learning = [module for module in experts if arrays_in(module.trainable_parameters())]
    with redirect_calls(model, learning, call):
        yield
