"""Gradient checkpointing: a layer's insides are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.model.layer_calls import layers_of, redirect_calls
from mm1_mlx.training.again import Again


@contextmanager
def layers_checkpointed(model: nn.Module, *, on: bool = True) -> Iterator[None]:
    """Inside, every layer of the image encoder and of the decoder keeps nothing but its input."""
    with redirect_calls(model, layers_of(model) if on else [], checkpointed):
        yield


def checkpointed(function: Callable[..., Any], layer: nn.Module, *args: Any, **options: Any) -> Any:
    """Return what ``function`` of ``layer`` gives, keeping its arguments alone for the backward pass."""
    call_again = Again(function, layer, args, options)

    def inner(parameters: dict[str, Any], inputs: list[mx.array]) -> list[mx.array]:
        layer.update(parameters)
        return call_again(inputs)

    return call_again.result(mx.checkpoint(inner)(layer.trainable_parameters(), call_again.inputs))
