"""Layers, and what stands in for them while the rest of a model is traced.

A stand-in multiplies what it reads by an array of its own: one step forward and one backward, found by that array.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.data.packing import Packed
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.graph import Graph, arrays_in, traced, with_arrays
from mm1_mlx.training.layer_calls import called_by, layers_of, with_methods
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.tuning.adapters import replace_modules
from mm1_mlx.vision.look import Seen


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, and what stands in for it. Its arrays tell shapes and types alone: others would hold on to
    weights that training replaces."""

    layer: nn.Module
    x: mx.array
    others: tuple[Any, ...]  # arguments and options behind x
    result: Any  # its first array is as x in shape and type
    stand: mx.array  # what x is multiplied with instead

    def __call__(self, x: mx.array, others: tuple[Any, ...]) -> mx.array:
        """The first array of what the layer gives."""
        arguments, options = others
        return arrays_in(type(self.layer).__call__(self.layer, x, *arguments, **options))[0]

    def stood_in(self, x: mx.array, stand: mx.array) -> Any:
        """In the form of the result."""
        return with_arrays(self.result, [x * stand, *map(mx.zeros_like, arrays_in(self.result)[1:])])

    def forward(self) -> Graph:
        """From x to what the layer gives."""

        def run(x: mx.array, parameters: dict[str, Any], others: tuple[Any, ...]) -> mx.array:
            self.layer.update(parameters)
            return self(x, others)

        with same_parameters(self.layer) as parameters, one_expert():
            return traced(run, self.x, parameters, self.others)

    def backward(self) -> Graph:
        """From x, what the layer gave of it and the gradient of that, to the gradients of x and of the weights.

        The layer is computed again, once what it gave is there: as ``mx.checkpoint`` does it.
        """

        def run(
            x: mx.array, y: mx.array, gradient: mx.array, parameters: dict[str, Any], others: tuple[Any, ...]
        ) -> Any:
            self.layer.update(parameters)
            trained = self.layer.trainable_parameters()

            def again(x: mx.array, *weights: mx.array) -> mx.array:
                self.layer.update(with_arrays(trained, weights))
                return self(x, others)

            return mx.vjp(again, mx.depends([x, *arrays_in(trained)], [y]), [gradient])[1]

        with same_parameters(self.layer) as parameters, one_expert():
            return traced(run, self.x, self.x, self.x, parameters, self.others)


def calls_of(model: MM1, packed: Packed, seen: Seen) -> list[Call]:
    """Of layers that give first what they read, in shape and type; in the order in which they are called."""
    found: list[Call] = []

    def watched(own: type[nn.Module]) -> Callable[..., Any]:
        def call(self: nn.Module, x: mx.array, *arguments: Any, **options: Any) -> Any:
            result = own.__call__(self, x, *arguments, **options)
            first = arrays_in(result)[0]
            if (first.shape, first.dtype) == (x.shape, x.dtype):
                shapes = (x, (arguments, options), result, x)
                found.append(Call(self, *with_arrays(shapes, map(mx.zeros_like, arrays_in(shapes)))))
            return result

        return call

    with called_by(layers_of(model), watched):
        loss_sum(model, packed, seen)
    return found


@contextmanager
def stood_in_for(model: MM1, calls: list[Call]) -> Iterator[list[int]]:
    """Put them in the places of the layers; gives the ids of the trainable parameters, stands among them."""
    paths = {id(module): path for path, module in model.named_modules()}
    layers = {paths[id(call.layer)]: call.layer for call in calls}
    replace_modules(model, {path: _stand_in(layer, calls) for path, layer in layers.items()})
    try:
        yield [id(array) for array in arrays_in(model.trainable_parameters())]
    finally:
        replace_modules(model, layers)


def _stand_in(layer: nn.Module, calls: list[Call]) -> nn.Module:
    """A layer that multiplies; its stands are trained where the layer or a part of it is."""
    calls = [call for call in calls if call.layer is layer]
    trained = bool(arrays_in(layer.trainable_parameters()))
    upcoming = enumerate(calls)

    def call(self: nn.Module, x: mx.array, *_: Any, **__: Any) -> Any:
        number, call = next(upcoming)
        return call.stood_in(x, self.stands[number])

    made = copy.copy(layer)
    made.__class__ = with_methods(type(layer), __call__=call)
    made.stands = [call.stand for call in calls]
    made._no_grad = {name for name in made if not (trained and name == "stands")}
    return made


@contextmanager
def same_parameters(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Those of ``module``, which it has again afterwards."""
    parameters = module.parameters()
    try:
        yield parameters
    finally:
        module.update(parameters)


@contextmanager
def one_expert() -> Iterator[None]:
    """Inside, the first of several experts works on all rows: MLX does not export how each gets its gradient.

    What is written and held is as large: the rows' products, and gradients of all experts.
    """

    def product(a: mx.array, b: mx.array, *, rhs_indices: mx.array, **_: Any) -> mx.array:
        return mx.broadcast_to(a, (*rhs_indices.shape, *a.shape[-2:])) @ b[:1].squeeze(0)

    gather_mm, mx.gather_mm = mx.gather_mm, product
    try:
        yield
    finally:
        mx.gather_mm = gather_mm
