"""Which rows an update sees, made ready in threads while the update before is computed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, runtime_checkable

from mm1_mlx.data.examples import Example, make_example
from mm1_mlx.data.packing import Packed, join, pack
from mm1_mlx.data.row_forms import Record
from mm1_mlx.data.sampler import order
from mm1_mlx.data.settings import TrainingSettings
from mm1_mlx.errors import DataError
from mm1_mlx.inputs.processor import Processor

WORKERS = 4  # threads that open pictures
NAMED = 5  # rows left out that are named, of all


@runtime_checkable
class Rows(Protocol):
    """Rows by number, parsed when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Record: ...


class Batches:
    """The packed sequences of every update, in an order that the seed and the update's number alone decide.

    Args:
        rows: the data.
        processor: from ``load``.
        settings: of the run.
        packing: rows may share a sequence.
        rank: this process among ``size``; each has its own rows of a batch.
        known: whether the visual tokens of a picture with this digest are there already, so that it is not opened.
    """

    def __init__(
        self,
        rows: Rows,
        processor: Processor,
        settings: TrainingSettings,
        *,
        packing: bool = True,
        rank: int = 0,
        size: int = 1,
        known: Callable[[str], bool] = lambda digest: False,
    ):
        self.rows, self._processor, self._settings = rows, processor, settings
        self._packing, self._rank, self._size, self._known = packing, rank, size, known
        self._pool = ThreadPoolExecutor(WORKERS)
        self._epoch, self._order = -1, []
        self.left_out: list[str] = []  # why rows could not be used
        self.waited = 0.0  # seconds that updates stood still for data

    def rows_of(self, update: int) -> list[int]:
        """Numbers of the rows of one update (from 0), those of this process alone."""
        size = self._settings.rows_per_update
        return [self._row(update * size + place) for place in range(self._rank, size, self._size)]

    def _row(self, place: int) -> int:
        """The row at a place of the endless sequence of epochs, each in an order of its own."""
        epoch, number = divmod(place, len(self.rows))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order(len(self.rows), self._settings.seed, epoch)
        return int(self._order[number])

    def updates(self, first: int, stop: int) -> Iterator[list[Packed]]:
        """The sequences of each update from ``first``; the next one's rows are made ready meanwhile.

        Raises:
            DataError: a row cannot be used, and ``skip_bad`` is off.
        """
        upcoming = self._begin(self.rows_of(first)) if first < stop else []
        for update in range(first, stop):
            current = upcoming
            upcoming = self._begin(self.rows_of(update + 1)) if update + 1 < stop else []
            start = time.perf_counter()
            examples = self._finish(current)
            self.waited += time.perf_counter() - start
            yield self.packed(examples)

    def unopened(self, update: int) -> list[Packed]:
        """The sequences of an update, to ask for their sizes: no picture is opened, what cannot be used passed over."""
        examples = []
        for number in self.rows_of(update):
            with suppress(DataError):  # it is told when its update comes
                examples.append(self._example(number))
        return self.packed(examples)

    def in_order(self, num_rows: int) -> Iterator[list[Packed]]:
        """Sequences of the first rows as they stand in the file, a batch at a time: for validation."""
        step = self._settings.batch_size
        mine = range(self._rank, num_rows, self._size)
        starts = range(0, len(mine), step)
        futures = self._begin(mine[:step])
        for start in starts:
            current, futures = futures, self._begin(mine[start + step : start + 2 * step])
            yield self.packed(self._finish(current))

    def packed(self, examples: Sequence[Example]) -> list[Packed]:
        """Rows in as few sequences as fit, or each on its own."""
        if self._packing:
            width = self._processor.config.text_config.hidden_dims
            return pack(examples, width=width, most=self._settings.max_seq_length)
        return [join([example], pad_to=1) for example in examples]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, numbers: Sequence[int]) -> list[Future]:
        return [self._pool.submit(self._prepare, number) for number in numbers]

    def _finish(self, futures: Sequence[Future]) -> list[Example]:
        examples = []
        for future in futures:
            try:
                examples.append(future.result())
            except DataError as error:
                if not self._settings.skip_bad:
                    raise DataError(
                        f"{error} --check-data lists all such rows, --skip-bad trains without them."
                    ) from None
                self.left_out.append(str(error))
                if len(self.left_out) <= NAMED:
                    print(f"mm1: left out: {error}", file=sys.stderr)
        return examples

    def _prepare(self, number: int) -> Example:
        """One row, its pictures decoded, resized and cut."""
        example = self._example(number)
        try:
            pictures = tuple(p if self._known(p.digest) else p.opened() for p in example.pictures)
        except Exception as error:
            raise DataError(f"{example.name}: {error}") from None
        return replace(example, pictures=pictures)

    def _example(self, number: int) -> Example:
        settings = self._settings
        return make_example(
            self.rows[number],
            self._processor,
            train_on_prompt=settings.train_on_prompt,
            max_length=settings.max_seq_length,
            truncate=settings.truncate,
        )
