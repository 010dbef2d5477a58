"""Processes that share a model's layers call them equally often: one with less to do does idle work beside it.

How often is agreed on before: so many sequences for an update, so many batches of views for a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

from mm1_mlx.data.packing import Packed, idle_sequence
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.vision.look import FrozenOutput, add_idle_batches


def equally_many(groups: Iterator[list[Packed]], processes: Processes) -> Iterator[list[Packed]]:
    """Yield groups of sequences, as many and as large as those of the process with the most."""
    while True:
        own = next(groups, None)
        most = processes.largest(-1 if own is None else len(own))
        if most < 0:
            return
        own = own or []
        yield own + [idle_sequence()] * (most - len(own))


def equally_often(model: MM1, seen: FrozenOutput, processes: Processes) -> FrozenOutput:
    """Show a sequence's pictures in as many batches of views as the process with the most has for its own."""
    if seen.visual_tokens is not None:
        return seen  # no part that is trained is called
    return add_idle_batches(model, seen, processes.largest(seen.num_batches) - seen.num_batches)
