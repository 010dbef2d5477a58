"""Prepare the rows of every update in threads while the update before is computed; mostly as packed sequences."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

from mm1_mlx.data.examples import Example, make_example
from mm1_mlx.data.mixture import Mixture
from mm1_mlx.data.packing import Packed, join, pack
from mm1_mlx.data.records import Records
from mm1_mlx.data.sampler import Sampler
from mm1_mlx.data.settings import DataSettings
from mm1_mlx.errors import DataError
from mm1_mlx.inputs.processor import Processor

WORKERS = 4  # threads that open pictures
NAMED = 5  # at most so many of the rows left out are named

Item = TypeVar("Item")  # a row
Made = TypeVar("Made")  # some rows, combined to be computed together


class RowBatches(Generic[Item, Made]):
    """Turns the rows that a sampler chooses into what is computed; a subclass prepares rows and combines them.

    Args:
        rows: the data. A mixture itself chooses the rows of an update, counts them, and leaves damaged ones out.
        settings: settings of the data.
        sampler: chooses the rows of an update; None chooses among all rows, for one process.
    """

    def __init__(self, rows: Records | Mixture, settings: DataSettings, sampler: Sampler | None = None):
        self.rows, self.settings = rows, settings
        if isinstance(rows, Mixture):
            self._mixture, self._sampler = rows, rows
        else:
            self._mixture, self._sampler = None, sampler or Sampler(len(rows), settings)
        self.left_out: list[str] = []  # why rows could not be used
        self.waited = 0.0  # seconds that updates waited for data

    def item(self, number: Any) -> Item:
        """Prepare a row, except for decoding its pictures.

        Raises:
            DataError: the row cannot be used.
        """
        raise NotImplementedError

    def open_pictures(self, item: Item) -> Item:
        """Return the same row with its pictures decoded, resized and cut."""
        raise NotImplementedError

    def combine(self, items: Sequence[Item]) -> list[Made]:
        """Combine rows."""
        raise NotImplementedError

    def updates(self, first: int, stop: int) -> Generator[list[Made], None, None]:
        """Yield the combined rows of each update from ``first`` on; those of the next one are prepared meanwhile.

        Raises:
            DataError: a row cannot be used, and ``skip_bad`` is off.
        """
        return self._prepare_groups(map(self._sampler.rows_of, range(first, stop)))

    def read_in_order(self, num_rows: int) -> Generator[list[Made], None, None]:
        """Yield the first rows in the order of the data, a batch at a time, for validation."""
        if isinstance(self._sampler, Mixture):
            raise ValueError("a mixture has no first rows; give rows with a number.")
        mine, step = self._sampler.first(num_rows), self.settings.batch_size
        return self._prepare_groups(mine[start : start + step] for start in range(0, len(mine), step))

    def peek(self, update: int) -> list[Made]:
        """Return the combined rows of an update without opening a picture, for questions about their sizes.

        Rows that cannot be used are skipped.
        """
        items = []
        for number in self._sampler.rows_of(update):
            with suppress(DataError):  # it is reported when its update comes
                items.append(self.item(number))
        return self.combine(items)

    def _prepare_groups(self, groups: Iterable[Sequence[Any]]) -> Generator[list[Made], None, None]:
        """Yield the combination of each group of rows; the threads end when no more groups are taken."""
        pool, begun = ThreadPoolExecutor(WORKERS), deque()
        try:
            for numbers in groups:
                begun.append([(number, pool.submit(self._prepare, number)) for number in numbers])
                if len(begun) > 1:
                    yield self.combine(self._finish(begun.popleft()))
            if begun:
                yield self.combine(self._finish(begun.popleft()))
        finally:
            pool.shutdown(cancel_futures=True)

    def _finish(self, begun: Sequence[tuple[Any, Future[Item]]]) -> list[Item]:
        """Wait for rows to be prepared; those that cannot be used are left out if the settings ask for that."""
        start, items = time.perf_counter(), []
        for number, future in begun:
            try:
                items.append(future.result())
            except DataError as error:
                self._leave_out(number, error)
            else:
                if self._mixture is not None:
                    self._mixture.count(number, items[-1])
        self.waited += time.perf_counter() - start
        return items

    def _leave_out(self, number: Any, error: DataError) -> None:
        if self._mixture is not None:
            self._mixture.leave_out(number, error)
            return
        if not self.settings.skip_bad:
            raise DataError(
                f"{error} `check_data` lists all such rows, `skip_bad` trains without them."
            ) from None
        self.left_out.append(str(error))
        if len(self.left_out) <= NAMED:
            print(f"mm1: left out: {error}", file=sys.stderr)

    def _prepare(self, number: Any) -> Item:
        return self.open_pictures(self.item(number))


class Batches(RowBatches[Example, Packed]):
    """Turns the rows that a sampler names into packed sequences.

    Args:
        rows: the data, as in ``RowBatches``.
        processor: from ``load``.
        settings: settings of the data.
        sampler: as in ``RowBatches``.
        packing: let rows share a sequence.
        known: says whether the visual tokens of a picture with this digest are known, so that it is not opened.
    """

    def __init__(
        self,
        rows: Records | Mixture,
        processor: Processor,
        settings: DataSettings,
        sampler: Sampler | None = None,
        *,
        packing: bool = True,
        known: Callable[[str], bool] = lambda digest: False,
    ):
        super().__init__(rows, settings, sampler)
        self._processor, self._packing, self._known = processor, packing, known

    def item(self, number: Any) -> Example:
        """Tokenise a row and find its pictures."""
        settings = self.settings
        return make_example(
            self.rows[number],
            self._processor,
            train_on_prompt=settings.train_on_prompt,
            max_length=settings.max_seq_length,
            max_pictures=settings.max_pictures,
            truncate=settings.truncate,
        )

    def open_pictures(self, item: Example) -> Example:
        """Return the same row with its pictures open, except for those that are known."""
        try:
            pictures = tuple(p if self._known(p.digest) else p.open_views() for p in item.pictures)
        except Exception as error:
            raise DataError(f"{item.name}: {error}") from None
        return replace(item, pictures=pictures)

    def combine(self, items: Sequence[Example]) -> list[Packed]:
        """Put rows into as few sequences as they fit in, or each into its own."""
        if self._packing:
            width = self._processor.config.text_config.hidden_dims
            apart = not self.settings.across_examples
            return pack(items, width=width, most=self.settings.max_seq_length, apart=apart)
        return [join([example], pad_to=1) for example in items]
