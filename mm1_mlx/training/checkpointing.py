"""Gradient checkpointing: the backward pass computes each layer's inner values again, so they need not be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.model.layer_calls import layers_of, redirect_calls
from mm1_mlx.training.again import Again


@contextmanager
def checkpoint_layers(model: nn.Module, *, on: bool = True) -> Iterator[None]:
    """Have every layer of the image encoder and of the decoder keep only its input, while the context lasts."""
    with redirect_calls(model, layers_of(model) if on else [], call_checkpointed):
        yield


def call_checkpointed(function: Callable[..., Any], layer: nn.Module, *args: Any, **options: Any) -> Any:
    """Call a method of a layer so that only its arguments are kept for the backward pass."""
    call_again = Again(function, layer, args, options)

    def inner(parameters: dict[str, Any], inputs: list[mx.array]) -> list[mx.array]:
        layer.update(parameters)
        return call_again(inputs)

    return call_again.result(mx.checkpoint(inner)(layer.trainable_parameters(), call_again.inputs))
