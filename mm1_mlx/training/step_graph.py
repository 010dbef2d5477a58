"""The graph of one training step: loss and gradients of one packed sequence; nothing is computed.

MLX does not export a layer that it computes twice (``mx.checkpoint``). So the model is traced with stand-ins for its
layers, and each layer's own graphs, of the forward and of the backward pass, are put where its stand-in is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from mm1_mlx.data.packing import Packed
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.graph import Graph, Step, arrays_in, traced
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.training.stand_ins import Call, calls_of, one_expert, same_parameters, stood_in_for
from mm1_mlx.vision.look import Seen


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
    calls = calls_of(model, packed, seen)
    with stood_in_for(model, calls) as trained:
        outside = _whole_graph(model, packed, seen)
        inputs = [id(array) for array in arrays_in([model.parameters(), vars(seen)])]
    return _put_in(outside, calls, inputs, trained)


def _whole_graph(model: MM1, packed: Packed, seen: Seen) -> Graph:
    gradients_of = nn.value_and_grad(model, loss_sum)

    def step(parameters: dict[str, Any], pictures: dict[str, Any]) -> Any:
        model.update(parameters)
        return gradients_of(model, packed, Seen(**pictures))

    with same_parameters(model) as parameters, one_expert():
        return traced(step, parameters, vars(seen))


@dataclass
class _Site:
    """Where a call stands in the graph outside of it: names of arrays."""

    x: str
    y: str
    gradient: str | None = None  # of y, where it is needed
    x_gradient: str = ""


def _put_in(outside: Graph, calls: list[Call], inputs: list[int], trained: list[int]) -> Graph:
    """The graph outside of the layers with the layers' graphs in it.

    Args:
        outside: with stand-ins.
        calls: those that are stood in for.
        inputs: ids of the arrays that are inputs of ``outside``.
        trained: ids of the arrays whose gradients are its outputs, after the loss.
    """
    by_id = {id(call.stand): number for number, call in enumerate(calls)}
    loss, *gradients = outside.outputs
    stands = {name: by_id[key] for name, key in zip(outside.inputs, inputs, strict=True) if key in by_id}
    of_stands = {name: by_id[key] for name, key in zip(gradients, trained, strict=True) if key in by_id}
    steps, sites = _without_stand_ins(outside.steps, stands, of_stands)
    weights: dict[int, list[str]] = {}  # names of the gradients of a layer's weights, by its id
    for number, site in reversed(sites.items()):
        own, found = _layer_steps(calls[number], site, str(number))
        steps += own
        layer = calls[number].layer
        if id(layer) in weights:  # it was called several times
            sums = _sums(weights[id(layer)], found, layer)
            steps, found = steps + sums, [name for step in sums for name in step.outputs]
        weights[id(layer)] = found
    outputs = [loss]
    for name in gradients:
        outputs += weights.pop(id(calls[of_stands[name]].layer), []) if name in of_stands else [name]
    return Graph(outside.inputs, steps, outputs)


def _without_stand_ins(
    steps: list[Step], stands: dict[str, int], of_stands: dict[str, int]
) -> tuple[list[Step], dict[int, _Site]]:
    """The other steps, and where each call stands, by its number.

    Args:
        steps: in an order in which they can be computed.
        stands: numbers of calls, by the arrays that their stand-ins multiply with.
        of_stands: the same by the gradients of those arrays.
    """
    others, sites = [], {}
    for step in steps:
        output = next(iter(step.outputs))
        number = next((stands[name] for name in step.inputs if name in stands), of_stands.get(output))
        if number is None:
            others.append(step)
        elif number not in sites:  # x times stand
            (x,) = (name for name in step.inputs if name not in stands)
            sites[number] = _Site(x, output)
        else:  # the gradient of y times stand, or times x
            site = sites[number]
            (site.gradient,) = (name for name in step.inputs if name not in stands and name != site.x)
            if output not in of_stands:
                site.x_gradient = output
    return others, sites


def _sums(names: list[str], others: list[str], layer: nn.Module) -> list[Step]:
    """Gradients of a layer's weights from two of its calls, added."""
    sizes = [array.nbytes for array in arrays_in(layer.trainable_parameters())]
    return [
        Step("Add", (name, other), {f"{name} + {other}": size})
        for name, other, size in zip(names, others, sizes, strict=True)
    ]


def _layer_steps(call: Call, site: _Site, prefix: str) -> tuple[list[Step], list[str]]:
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
