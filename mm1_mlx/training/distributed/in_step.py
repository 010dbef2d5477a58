"""Idle work that keeps processes in step: processes that share a model's layers must call them equally often.

The processes agree on the number of sequences of each update, and on the number of batches of views of each sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

from mm1_mlx.data.packing import Packed, idle_sequence
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.vision.look import FrozenOutput, add_idle_batches


def add_idle_sequences(groups: Iterator[list[Packed]], processes: Processes) -> Iterator[list[Packed]]:
    """Yield groups of sequences, filled up with idle ones to the number and size of the process with the most."""
    while True:
        own = next(groups, None)
        most = processes.largest(-1 if own is None else len(own))
        if most < 0:
            return
        own = own or []
        yield own + [idle_sequence()] * (most - len(own))


def add_idle_views(model: MM1, seen: FrozenOutput, processes: Processes) -> FrozenOutput:
    """Add idle batches of views until every process has as many for this sequence as the process with the most."""
    if seen.visual_tokens is not None:
        return seen  # the visual tokens are there, so no shared part is called
    return add_idle_batches(model, seen, processes.largest(seen.num_batches) - seen.num_batches)
