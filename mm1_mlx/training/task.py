"""The interface of what a trainer can train: a model, its batches and its loss."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from mm1_mlx.training.recipe import Recipe


@runtime_checkable
class MicroBatch(Protocol):
    """What the model computes at once: all of an update, or a part of it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows, for messages."""
        ...

    @property
    def num_learned(self) -> int:
        """Number of tokens, or of whatever else the loss is a sum over."""
        ...

    @property
    def num_tokens(self) -> int:
        """Number of tokens, without padding."""
        ...

    @property
    def num_places(self) -> int:
        """Number of tokens, with padding."""
        ...

    @property
    def num_pictures(self) -> int:
        """Number of pictures."""
        ...


Measured = tuple[mx.array, ...]  # sums over what is learned, one for each of a task's ``measures``
Look = Callable[[Any], Any]  # takes a micro-batch, returns what ``Task.look`` does
Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch", bound=MicroBatch)


class Task(Generic[Model, Batch]):
    """What a trainer trains. A subclass defines at least ``updates`` and ``loss``.

    Args:
        model: the model whose trainable parameters learn. Everything that is not to learn must be frozen already.
        recipe: the settings of the run.
    """

    measures: tuple[str, ...] = ("loss",)  # names of what ``loss`` measures; the loss itself comes first
    keeps_frozen: bool = False  # ``save`` gets all weights of the model, not only the trained ones

    def __init__(self, model: Model, recipe: Recipe):
        self.model, self.recipe = model, recipe

    @property
    def waited(self) -> float:
        """Seconds that updates have waited for data."""
        return 0.0

    @property
    def run(self) -> dict[str, Any]:
        """What identifies the run besides its recipe, by name; a run with other values cannot be resumed."""
        return {}

    def updates(self, first: int, stop: int) -> Generator[list[Batch], None, None]:
        """Yield this process's share of each update, from number ``first`` to before ``stop``.

        The rows of an update must depend only on its number and the recipe, so that a run can be resumed.
        """
        raise NotImplementedError

    def look(self, batch: Batch) -> Any:
        """Compute everything about a micro-batch that involves no trained weight, outside of the gradient."""
        return None

    def looks(self, update: Sequence[Batch], look: Look) -> Iterator[Any]:
        """Yield the result of ``look`` for each micro-batch of an update, when it is needed.

        A task whose micro-batches depend on each other computes that here, before the first one. This is called for
        every update and every group of held-out rows, even where this process's share is empty.

        Args:
            update: this process's share.
            look: the task's ``look``, wrapped by the trainer, which notices that it was called.
        """
        return map(look, update)

    def gather_metrics(self) -> dict[str, Any]:
        """Return additional metrics since the last report. All processes call this together."""
        return {}

    def gather_counts(self) -> dict[str, Any]:
        """Return what ``gather_metrics`` is computed from, as JSON values. All processes call this together."""
        return {}

    def take_counts(self, counts: dict[str, Any]) -> None:
        """Go on from what ``gather_counts`` returned when the run was stopped; every process calls this.

        Raises:
            TypeError, ValueError: these are no such counts.
        """

    def loss(self, model: Model, batch: Batch, seen: Any) -> tuple[mx.array, Measured]:
        """Return the value to lower, and the measures, each summed over what is learned.

        The trainer divides by the number of all that is learned in an update, in all micro-batches and processes.

        Args:
            model: the model to compute with.
            batch: the micro-batch.
            seen: the result of ``look`` for this micro-batch.
        """
        raise NotImplementedError

    def require_sound(self, update: Sequence[Batch], look: Look) -> None:
        """Refuse, before the first update, a model that cannot be trained in this way.

        Raises:
            TrainingError: the model cannot be trained; the message says why.
        """

    def require_memory(self) -> None:
        """Refuse, before it begins, a run that does not fit into memory. Runs that use shards are not checked.

        Raises:
            TrainingError: the memory is too small; the message says what to lower.
        """

    def num_held_out(self, num_batches: int) -> int:
        """Return the number of rows in this many validation batches, 0 where there are none; -1 means all batches."""
        return 0

    def held_out(self, num_rows: int) -> Generator[list[Batch], None, None]:
        """Yield this process's share of rows that are not trained on."""
        yield from ()

    def save(self, folder: Path, weights: dict[str, mx.array]) -> None:
        """Write what was learned in the form in which it is used; checkpoints are written elsewhere.

        Args:
            folder: the folder of the run, or one inside it for the best weights so far.
            weights: the trained weights, or all weights with ``keeps_frozen``, whole, by key.
        """
