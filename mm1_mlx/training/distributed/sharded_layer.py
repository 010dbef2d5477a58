"""A layer of which every process has some rows: it is whole while it computes, and in no other moment.

Its matrices are gathered for the forward pass, and again for the backward pass, which computes the layer a second
time; what the processes find as gradients is added up and handed out by rows. All of it happens in one order on all
processes, though their graphs differ: gathering waits for the layer's inputs, gathering again for the gradients of
its outputs, and the gradients of its inputs wait for what is handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mm1_mlx.model.layer_calls import Call
from mm1_mlx.training.again import Again
from mm1_mlx.training.distributed.processes import Processes

Arrays = dict[str, mx.array]


def gathering(rows: dict[str, int], processes: Processes) -> Call:
    """Return a call of a layer, already cut, that has the whole matrices while it runs.

    Args:
        rows: how many rows the layer's cut matrices have in all, by key.
        processes: that have them.
    """

    def call(function: Callable[..., Any], layer: nn.Module, *args: Any, **options: Any) -> Any:
        here: Arrays = dict(tree_flatten(layer.parameters()))
        learned = [key for key, _ in tree_flatten(layer.trainable_parameters())]
        compute_again = Again(function, layer, args, options)

        def gathered(values: Sequence[mx.array], after: Sequence[mx.array]) -> Arrays:
            parts = here | dict(zip(learned, values, strict=True))
            whole = processes.gather([parts[key] for key in rows], list(rows.values()), after)
            return parts | dict(zip(rows, whole, strict=True))

        def compute(whole: Arrays, inputs: list[mx.array]) -> list[mx.array]:
            layer.update(tree_unflatten(list(whole.items())))
            found = compute_again(inputs)
            layer.update(tree_unflatten(list(here.items())))
            return found

        @mx.custom_function
        def forward(values: list[mx.array], inputs: list[mx.array]) -> list[mx.array]:
            return compute(gathered(values, inputs), inputs)

        @forward.vjp
        def backward(
            primals: Any, cotangents: list[mx.array], _: Any
        ) -> tuple[list[mx.array], list[mx.array]]:
            values, inputs = primals
            whole = gathered(values, cotangents)

            def again(*arrays: mx.array) -> list[mx.array]:
                changed = dict(zip(learned, arrays[: len(learned)], strict=True))
                return compute(whole | changed, list(arrays[len(learned) :]))

            _, found = mx.vjp(again, [*(whole[key] for key in learned), *inputs], cotangents)
            gradients, of_inputs = dict(zip(learned, found, strict=False)), found[len(learned) :]
            cut = [key for key in learned if key in rows]
            handed_out = processes.scatter([gradients[key] for key in cut])
            gradients |= zip(cut, handed_out, strict=True)
            if of_inputs:
                of_inputs = mx.depends(of_inputs, handed_out)
            return [gradients[key] for key in learned], of_inputs

        return compute_again.result(forward([here[key] for key in learned], compute_again.inputs))

    return call
