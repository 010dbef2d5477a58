"""What every update computes, made ready in threads while the update before is computed: packed sequences, mostly."""

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
NAMED = 5  # rows left out that are named, of all

Item = TypeVar("Item")  # a row
Made = TypeVar("Made")  # some rows, as they are computed together


class RowBatches(Generic[Item, Made]):
    """Turns the rows that a sampler names into what is computed. A kind of it makes rows ready, and puts them together.

    Args:
        rows: the data. A mixture says itself which rows come when, counts them, and leaves damaged ones out.
        settings: of the data.
        sampler: which rows come when; None: all of them, in a process alone.
    """

    def __init__(self, rows: Records | Mixture, settings: DataSettings, sampler: Sampler | None = None):
        self.rows, self.settings = rows, settings
        self._mixture = rows if isinstance(rows, Mixture) else None
        self._sampler = self._mixture or sampler or Sampler(len(rows), settings)
        self.left_out: list[str] = []  # why rows could not be used
        self.waited = 0.0  # seconds that updates stood still for data

    def item(self, number: Any) -> Item:
        """Return a row made ready, but for its pictures.

        Raises:
            DataError: it cannot be used.
        """
        raise NotImplementedError

    def opened(self, item: Item) -> Item:
        """Return the same, its pictures decoded, resized and cut."""
        raise NotImplementedError

    def packed(self, items: Sequence[Item]) -> list[Made]:
        """Put rows together."""
        raise NotImplementedError

    def updates(self, first: int, stop: int) -> Generator[list[Made], None, None]:
        """Yield the rows of each update from ``first``, together; the next one's are made ready meanwhile.

        Raises:
            DataError: a row cannot be used, and ``skip_bad`` is off.
        """
        return self._together(map(self._sampler.rows_of, range(first, stop)))

    def in_order(self, num_rows: int) -> Generator[list[Made], None, None]:
        """Yield the first rows as they stand in the data, a batch at a time: for validation."""
        mine, step = self._sampler.first(num_rows), self.settings.batch_size
        return self._together(mine[start : start + step] for start in range(0, len(mine), step))

    def unopened(self, update: int) -> list[Made]:
        """Return the rows of an update, to ask for their sizes: no picture is opened.

        What cannot be used is passed over.
        """
        items = []
        for number in self._sampler.rows_of(update):
            with suppress(DataError):  # it is told when its update comes
                items.append(self.item(number))
        return self.packed(items)

    def _together(self, groups: Iterable[Sequence[Any]]) -> Generator[list[Made], None, None]:
        """Yield what becomes of each group of rows; the threads end when no more are asked for."""
        pool, begun = ThreadPoolExecutor(WORKERS), deque()
        try:
            for numbers in groups:
                begun.append([(number, pool.submit(self._prepare, number)) for number in numbers])
                if len(begun) > 1:
                    yield self.packed(self._finish(begun.popleft()))
            if begun:
                yield self.packed(self._finish(begun.popleft()))
        finally:
            pool.shutdown(cancel_futures=True)

    def _finish(self, begun: Sequence[tuple[Any, Future[Item]]]) -> list[Item]:
        """Wait for rows; those that cannot be used are left out where that is asked for."""
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
        return self.opened(self.item(number))


class Batches(RowBatches[Example, Packed]):
    """Turns the rows that a sampler names into packed sequences.

    Args:
        rows: the data, as in ``RowBatches``.
        processor: from ``load``.
        settings: of the data.
        sampler: which rows come when; None: all of them, in a process alone.
        packing: rows may share a sequence.
        known: whether the visual tokens of a picture with this digest are there already, so that it is not opened.
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
        """Return a row with its ids."""
        settings = self.settings
        return make_example(
            self.rows[number],
            self._processor,
            train_on_prompt=settings.train_on_prompt,
            max_length=settings.max_seq_length,
            max_pictures=settings.max_pictures,
            truncate=settings.truncate,
        )

    def opened(self, item: Example) -> Example:
        """Return the same with its pictures open, but for those that are known."""
        try:
            pictures = tuple(p if self._known(p.digest) else p.open_views() for p in item.pictures)
        except Exception as error:
            raise DataError(f"{item.name}: {error}") from None
        return replace(item, pictures=pictures)

    def packed(self, items: Sequence[Example]) -> list[Packed]:
        """Put rows into as few sequences as fit, or each into its own."""
        if self._packing:
            width = self._processor.config.text_config.hidden_dims
            apart = not self.settings.across_examples
            return pack(items, width=width, most=self.settings.max_seq_length, apart=apart)
        return [join([example], pad_to=1) for example in items]
