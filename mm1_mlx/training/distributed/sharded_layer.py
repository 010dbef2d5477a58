"""A layer whose rows are spread over the processes, and which is whole only while it computes.

Its matrices are gathered for the forward pass, and again for the backward pass, which computes the layer a second
time. The gradients of all processes are added up, and each process gets its own rows of the sum. All processes do this
in the same order, though their graphs differ: the first gathering waits for the layer's inputs, the second one for the
gradients of its outputs, and the gradients of its inputs wait for the rows of the sum.
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


def make_gathering_call(rows: dict[str, int], processes: Processes) -> Call:
    """Return a function that calls a layer which is already cut, with whole matrices while it runs.

    Args:
        rows: number of all rows of the layer's cut matrices, by key.
        processes: the processes over which they are spread.
    """

    def call(function: Callable[..., Any], layer: nn.Module, *args: Any, **options: Any) -> Any:
        here: Arrays = dict(tree_flatten(layer.parameters()))
        learned = [key for key, _ in tree_flatten(layer.trainable_parameters())]
        compute_again = Again(function, layer, args, options)

        def gather(values: Sequence[mx.array], after: Sequence[mx.array]) -> Arrays:
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
            return compute(gather(values, inputs), inputs)

        @forward.vjp
        def backward(
            primals: Any, cotangents: list[mx.array], _: Any
        ) -> tuple[list[mx.array], list[mx.array]]:
            values, inputs = primals
            whole = gather(values, cotangents)

            def compute_changed(*arrays: mx.array) -> list[mx.array]:
                changed = dict(zip(learned, arrays[: len(learned)], strict=True))
                return compute(whole | changed, list(arrays[len(learned) :]))

            _, found = mx.vjp(compute_changed, [*(whole[key] for key in learned), *inputs], cotangents)
            gradients, of_inputs = dict(zip(learned, found, strict=False)), found[len(learned) :]
            cut = [key for key in learned if key in rows]
            handed_out = processes.scatter([gradients[key] for key in cut])
            gradients |= zip(cut, handed_out, strict=True)
            if of_inputs:
                of_inputs = mx.depends(of_inputs, handed_out)
            return [gradients[key] for key in learned], of_inputs

        arrays: Any = forward([here[key] for key in learned], compute_again.inputs)
        return compute_again.result(arrays)

    return call
