"""What a trainer trains: a model, its batches and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.training.recipe import Recipe


@runtime_checkable
class MicroBatch(Protocol):
    """What goes through the model at once: all of an update, or a share of it."""

    names: tuple[str, ...]  # of its rows, for messages
    num_learned: int  # tokens, or whatever else the loss is a sum over
    num_tokens: int
    num_places: int  # of tokens, padding included
    num_pictures: int


Measured = tuple[mx.array, ...]  # sums over what is learned, one for each of a task's ``measures``
Look = Callable[[MicroBatch], Any]


class Task:
    """What is learned. A kind of it gives at least ``updates`` and ``loss``.

    Args:
        model: whose trainable parameters learn. It has been prepared: what is not to learn is frozen.
        recipe: of the run.
    """

    measures: tuple[str, ...] = (
        "loss",
    )  # what the loss measures beside what it makes smaller; first the loss
    keeps_frozen: bool = False  # ``save`` takes all weights of the model, not the trained ones alone
    waited: float = 0.0  # seconds that updates stood still for data

    def __init__(self, model: nn.Module, recipe: Recipe):
        self.model, self.recipe = model, recipe

    @property
    def run(self) -> dict[str, Any]:
        """What makes the run this run beside its recipe, by name; another one cannot go on from its checkpoints."""
        return {}

    def updates(self, first: int, stop: int) -> Iterator[list[MicroBatch]]:
        """Yield this process's share of each update from ``first``, which its number and the recipe alone decide."""
        raise NotImplementedError

    def look(self, batch: MicroBatch) -> Any:
        """Do for a micro-batch what no trained weight is involved in, outside of the gradient."""
        return None

    def looks(self, update: Sequence[MicroBatch], look: Look) -> Iterator[Any]:
        """Yield what is seen of each micro-batch of an update, when its turn comes.

        What all of them have to do with each other is found here, before the first: it is called for every update
        and every group of held-out rows, even where this process's share is empty.

        Args:
            update: this process's share.
            look: ``look``, watched by the trainer.
        """
        return map(look, update)

    def told(self) -> dict[str, Any]:
        """Return what a report tells beside, since the last one. All processes come here together."""
        return {}

    def loss(self, model: nn.Module, batch: MicroBatch, seen: Any) -> tuple[mx.array, Measured]:
        """Return what is to become smaller, and the measures, all summed over what is learned.

        The trainer divides by the number of all that is learned in an update, in all micro-batches and processes.
        """
        raise NotImplementedError

    def require_sound(self, update: Sequence[MicroBatch], look: Look) -> None:
        """Refuse, before the first update, a model that cannot be trained so.

        Raises:
            TrainingError: says why.
        """

    def require_room(self) -> None:
        """Refuse a run that will not fit the memory, before it begins; not one that is spread over processes.

        Raises:
            TrainingError: says what to lower.
        """

    def num_held_out(self, num_batches: int) -> int:
        """Return how many rows so many batches of a validation have; -1 stands for all batches. 0: there are none."""
        return 0

    def held_out(self, num_rows: int) -> Iterator[list[MicroBatch]]:
        """Yield this process's share of rows that are not trained on."""
        yield from ()

    def save(self, folder: Path, weights: dict[str, mx.array]) -> None:
        """Keep what was learned for those who use it; a checkpoint is written anyway.

        Args:
            folder: of the run, or inside it for the best weights so far.
            weights: the trained ones, or all with ``keeps_frozen``, whole, by key.
        """
