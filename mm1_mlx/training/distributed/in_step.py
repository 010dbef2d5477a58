"""Processes that share a model's layers call them equally often: one with less to do does idle work beside it.

How often is agreed on before: so many sequences for an update, so many batches of views for a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.data.packing import Packed, idle_sequence
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.objective import Seen


def equally_many(groups: Iterator[list[Packed]], processes: Processes) -> Iterator[list[Packed]]:
    """Groups of sequences, as many and as large as those of the process with the most."""
    while True:
        own = next(groups, None)
        most = processes.largest(-1 if own is None else len(own))
        if most < 0:
            return
        own = own or []
        yield own + [idle_sequence()] * (most - len(own))


def equally_often(model: MM1, seen: Seen, trained: frozenset[str], processes: Processes) -> Seen:
    """Pictures of a sequence in as many batches of views as the process with the most has for its own."""
    if not trained & {"image_encoder", "connector"}:
        return seen  # their visual tokens are there
    batches = seen.pixels or seen.patches or []
    idle = processes.largest(len(batches)) - len(batches)
    if "image_encoder" in trained:
        return Seen(pixels=[*batches, *[_idle_views(model)] * idle], idle=idle)
    return Seen(patches=[*batches, *[_idle_features(model)] * idle], idle=idle)


def _idle_views(model: MM1) -> Float[mx.array, "n H W 3"]:
    """As few as the connector takes."""
    side = model.config.image_config.image_size
    return mx.zeros((model.config.connector_config.views_at_once, side, side, 3))


def _idle_features(model: MM1) -> tuple[Float[mx.array, "n P E"], tuple[int, int]]:
    views = _idle_views(model)
    height, width = model.image_encoder.grid(views)
    dims = model.config.connector_config.input_dims
    return mx.zeros((len(views), height * width, dims), model.image_encoder.dtype), (height, width)
