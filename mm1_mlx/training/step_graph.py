"""The graph of one training step: loss and gradients of one packed sequence; nothing is computed.

MLX does not export a layer that it computes twice (``mx.checkpoint``). So the model is traced with a stand-in for each
layer, one product that goes forward and backward, and the layer's own two graphs are put where the products are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.model.adapters import replace_modules
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.graph import Graph, Step, arrays_in, traced, with_arrays
from mm1_mlx.training.loss import Seen, loss_sum
from mm1_mlx.training.packing import Packed


def step_graph(model: MM1, packed: Packed, seen: Seen, *, checkpointed: bool = False) -> Graph:
    """From weights and pictures to the loss, then the gradients in the order of the trainable parameters.

    Args:
        model: prepared for training, in training mode.
        packed: the sequence.
        seen: its pictures; their arrays are inputs.
        checkpointed: layers of image encoder and decoder keep nothing but what they read. One that does not give
            first what it reads, in shape and type, is counted as if it kept all.
    """
    if not checkpointed:
        return _whole_graph(model, packed, seen)
    calls = _calls(model, packed, seen)
    with _stand_ins(model, calls) as trained:
        outside = _whole_graph(model, packed, seen)
        inputs = [id(array) for array in arrays_in([model.parameters(), vars(seen)])]
    return _put_in(outside, calls, inputs, trained)


def _whole_graph(model: MM1, packed: Packed, seen: Seen) -> Graph:
    gradients_of = nn.value_and_grad(model, loss_sum)

    def step(parameters: dict[str, Any], pictures: dict[str, Any]) -> Any:
        model.update(parameters)
        return gradients_of(model, packed, Seen(**pictures))

    with _same_parameters(model) as parameters, _one_expert():
        return traced(step, parameters, vars(seen))


@contextmanager
def _same_parameters(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Those of ``module``, which it has again afterwards."""
    parameters = module.parameters()
    try:
        yield parameters
    finally:
        module.update(parameters)


@contextmanager
def _one_expert() -> Iterator[None]:
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


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a layer, and what stands in for it. Its arrays tell shapes and types alone."""

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

        with _same_parameters(self.layer) as parameters, _one_expert():
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

        with _same_parameters(self.layer) as parameters, _one_expert():
            return traced(run, self.x, self.x, self.x, parameters, self.others)


def _calls(model: MM1, packed: Packed, seen: Seen) -> list[_Call]:
    """Of layers that give first what they read, in shape and type; in the order in which they are called."""
    layers = [*model.image_encoder.layers, *model.decoder.layers]
    classes = [type(layer) for layer in layers]
    found: list[_Call] = []

    def watched(own: type[nn.Module]) -> type[nn.Module]:
        def call(self: nn.Module, x: mx.array, *arguments: Any, **options: Any) -> Any:
            result = own.__call__(self, x, *arguments, **options)
            first = arrays_in(result)[0]
            if (first.shape, first.dtype) == (x.shape, x.dtype):
                shapes = (x, (arguments, options), result, x)
                found.append(_Call(self, *with_arrays(shapes, map(mx.zeros_like, arrays_in(shapes)))))
            return result

        return type(own.__name__, (own,), {"__call__": call})

    for layer, own in zip(layers, classes, strict=True):
        layer.__class__ = watched(own)
    try:
        loss_sum(model, packed, seen)
    finally:
        for layer, own in zip(layers, classes, strict=True):
            layer.__class__ = own
    return found


@contextmanager
def _stand_ins(model: MM1, calls: list[_Call]) -> Iterator[list[int]]:
    """Put them in the places of the layers; gives the ids of the trainable parameters, stands among them."""
    paths = {id(module): path for path, module in model.named_modules()}
    layers = {paths[id(call.layer)]: call.layer for call in calls}
    replace_modules(model, {path: _stand_in(layer, calls) for path, layer in layers.items()})
    try:
        yield [id(array) for array in arrays_in(model.trainable_parameters())]
    finally:
        replace_modules(model, layers)


def _stand_in(layer: nn.Module, calls: list[_Call]) -> nn.Module:
    """A layer that multiplies; its stands are trained where the layer or a part of it is."""
    own, calls = type(layer), [call for call in calls if call.layer is layer]
    trained = bool(arrays_in(layer.trainable_parameters()))
    upcoming = enumerate(calls)

    def call(self: nn.Module, x: mx.array, *_: Any, **__: Any) -> Any:
        number, call = next(upcoming)
        return call.stood_in(x, self.stands[number])

    made = copy.copy(layer)
    made.__class__ = type(own.__name__, (own,), {"__call__": call})
    made.stands = [call.stand for call in calls]
    made._no_grad = {name for name in made if not (trained and name == "stands")}
    return made


@dataclass
class _Site:
    """Where a call stands in the graph outside of it: names of arrays."""

    x: str
    y: str
    gradient: str | None = None  # of y, where it is needed
    x_gradient: str = ""


def _put_in(outside: Graph, calls: list[_Call], inputs: list[int], trained: list[int]) -> Graph:
    """The graph outside of the layers with the layers' graphs in it.

    Args:
        outside: with stand-ins.
        calls: those that are stood in for.
        inputs: ids of the arrays that are inputs of ``outside``.
        trained: ids of the arrays whose gradients are its outputs, after the loss.
    """
    by_id = {id(call.stand): number for number, call in enumerate(calls)}
    stands = {name: by_id[key] for name, key in zip(outside.inputs, inputs, strict=True) if key in by_id}
    loss, *gradients = outside.outputs
    of_stands = {name: by_id[key] for name, key in zip(gradients, trained, strict=True) if key in by_id}
    sites: dict[int, _Site] = {}
    steps = []
    for step in outside.steps:
        (output,) = list(step.outputs)[:1]
        number = next((stands[name] for name in step.inputs if name in stands), of_stands.get(output))
        if number is None:
            steps.append(step)
        elif number not in sites:  # x times stand
            (x,) = (name for name in step.inputs if name not in stands)
            sites[number] = _Site(x, output)
        else:  # the gradient of y times stand, or times x
            site = sites[number]
            (site.gradient,) = (name for name in step.inputs if name not in stands and name != site.x)
            if output not in of_stands:
                site.x_gradient = output
    weights: dict[int, list[str]] = {}  # names of the gradients of a layer's weights, by its id
    for number, site in reversed(sites.items()):
        own, found = _layer_steps(calls[number], site, str(number))
        steps += own
        layer = id(calls[number].layer)
        if layer in weights:  # it was called several times
            sums = _sums(weights[layer], found, calls[number].layer)
            steps, found = steps + sums, [name for step in sums for name in step.outputs]
        weights[layer] = found
    outputs = [loss]
    for name in gradients:
        own = [name] if name not in of_stands else weights.pop(id(calls[of_stands[name]].layer), [])
        outputs += own
    return Graph(outside.inputs, steps, outputs)


def _sums(names: list[str], others: list[str], layer: nn.Module) -> list[Step]:
    """Gradients of a layer's weights from two of its calls, added."""
    sizes = [array.nbytes for array in arrays_in(layer.trainable_parameters())]
    return [
        Step("Add", (name, other), {f"{name} + {other}": size})
        for name, other, size in zip(names, others, sizes, strict=True)
    ]


def _layer_steps(call: _Call, site: _Site, prefix: str) -> tuple[list[Step], list[str]]:
    """A layer's steps under names that nothing else has, and the names of its weights' gradients."""
    graph = call.forward()
    steps = _renamed(graph, f"{prefix} forward", {graph.inputs[0]: site.x, graph.outputs[0]: site.y})
    if site.gradient is None:
        return steps, []
    graph = call.backward()
    known = dict(zip(graph.inputs, (site.x, site.y, site.gradient), strict=False))
    x_gradient, *others = graph.outputs
    if site.x_gradient:
        known[x_gradient] = site.x_gradient
    steps += _renamed(graph, f"{prefix} backward", known)
    return steps, [known.get(name, f"{prefix} backward {name}") for name in others]


def _renamed(graph: Graph, prefix: str, known: dict[str, str]) -> list[Step]:
    def new(name: str) -> str:
        return known.get(name, f"{prefix} {name}")

    return [
        Step(step.name, tuple(map(new, step.inputs)), {new(n): size for n, size in step.outputs.items()})
        for step in graph.steps
    ]
