"""Gradient checkpointing: a layer's insides are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.again import Again, ComputedTwice
from mm1_mlx.training.layer_calls import called_by, layers_of


@contextmanager
def layers_checkpointed(model: MM1, *, on: bool = True) -> Iterator[None]:
    """Inside, every layer of the image encoder and of the decoder keeps nothing but its input.

    Layers that are sharded do so anyway.
    """
    layers = [layer for layer in layers_of(model) if on and not isinstance(layer, ComputedTwice)]
    with called_by(layers, _checkpointed, ComputedTwice):
        yield


def _checkpointed(own: type[nn.Module]) -> Callable[..., Any]:
    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        call_again = Again(own.__call__, self, args, options)

        def inner(parameters: dict[str, Any], inputs: list[mx.array]) -> list[mx.array]:
            self.update(parameters)
            return call_again(inputs)

        return call_again.result(mx.checkpoint(inner)(self.trainable_parameters(), call_again.inputs))

    return call
