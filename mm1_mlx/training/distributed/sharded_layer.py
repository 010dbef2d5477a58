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

from mm1_mlx.training.again import Again, ComputedTwice
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.layer_calls import with_methods

Arrays = dict[str, mx.array]


def shard_layer(layer: nn.Module, rows: dict[str, int], processes: Processes) -> None:
    """Make a layer, already cut, gather what it computes with. The object stays, and so do its keys.

    Args:
        layer: one that is called, or a vocabulary's table, which also serves as a head.
        rows: how many rows its cut matrices have in all, by key.
        processes: that have them.
    """
    own = type(layer)
    methods = {
        name: _gathering(getattr(own, name), rows, processes)
        for name in ("__call__", "as_linear")
        if hasattr(own, name)
    }
    layer.__class__ = with_methods(own, ComputedTwice, **methods)


def _gathering(
    function: Callable[..., Any], rows: dict[str, int], processes: Processes
) -> Callable[..., Any]:
    """A method that has the whole matrices while it runs."""

    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        here: Arrays = dict(tree_flatten(self.parameters()))
        learned = [key for key, _ in tree_flatten(self.trainable_parameters())]
        compute_again = Again(function, self, args, options)

        def gathered(values: Sequence[mx.array], after: Sequence[mx.array]) -> Arrays:
            parts = here | dict(zip(learned, values, strict=True))
            whole = processes.gather([parts[key] for key in rows], list(rows.values()), after)
            return parts | dict(zip(rows, whole, strict=True))

        def compute(whole: Arrays, inputs: list[mx.array]) -> list[mx.array]:
            self.update(tree_unflatten(list(whole.items())))
            found = compute_again(inputs)
            self.update(tree_unflatten(list(here.items())))
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
