"""The packed sequences of every update, made ready in threads while the update before is computed."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

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


class Batches:
    """Turns the rows that a sampler names into packed sequences.

    Args:
        rows: the data. A mixture says itself which rows come when, counts them, and leaves damaged ones out.
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
        self.rows, self._processor, self._settings = rows, processor, settings
        self._mixture = rows if isinstance(rows, Mixture) else None
        self._sampler = self._mixture or sampler or Sampler(len(rows), settings)
        self._packing, self._known = packing, known
        self.left_out: list[str] = []  # why rows could not be used
        self.waited = 0.0  # seconds that updates stood still for data

    def updates(self, first: int, stop: int) -> Iterator[list[Packed]]:
        """Yield the sequences of each update from ``first``; the next one's rows are made ready meanwhile.

        Raises:
            DataError: a row cannot be used, and ``skip_bad`` is off.
        """
        return self._sequences(map(self._sampler.rows_of, range(first, stop)))

    def in_order(self, num_rows: int) -> Iterator[list[Packed]]:
        """Yield the sequences of the first rows as they stand in the data, a batch at a time: for validation."""
        mine, step = self._sampler.first(num_rows), self._settings.batch_size
        return self._sequences(mine[start : start + step] for start in range(0, len(mine), step))

    def unopened(self, update: int) -> list[Packed]:
        """Return the sequences of an update, to ask for their sizes: no picture is opened.

        What cannot be used is passed over.
        """
        examples = []
        for number in self._sampler.rows_of(update):
            with suppress(DataError):  # it is told when its update comes
                examples.append(self._example(number))
        return self.packed(examples)

    def packed(self, examples: Sequence[Example]) -> list[Packed]:
        """Put rows into as few sequences as fit, or each into its own."""
        if self._packing:
            width = self._processor.config.text_config.hidden_dims
            apart = not self._settings.across_examples
            return pack(examples, width=width, most=self._settings.max_seq_length, apart=apart)
        return [join([example], pad_to=1) for example in examples]

    def _sequences(self, groups: Iterable[Sequence[Any]]) -> Iterator[list[Packed]]:
        """Yield the sequences of each group of rows; the threads end when no more are asked for."""
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

    def _finish(self, begun: Sequence[tuple[Any, Future[Example]]]) -> list[Example]:
        """Wait for rows; those that cannot be used are left out where that is asked for."""
        start, examples = time.perf_counter(), []
        for number, future in begun:
            try:
                examples.append(future.result())
            except DataError as error:
                self._leave_out(number, error)
            else:
                if self._mixture is not None:
                    self._mixture.count(number, examples[-1])
        self.waited += time.perf_counter() - start
        return examples

    def _leave_out(self, number: Any, error: DataError) -> None:
        if self._mixture is not None:
            self._mixture.leave_out(number, error)
            return
        if not self._settings.skip_bad:
            raise DataError(
                f"{error} `check_data` lists all such rows, `skip_bad` trains without them."
            ) from None
        self.left_out.append(str(error))
        if len(self.left_out) <= NAMED:
            print(f"mm1: left out: {error}", file=sys.stderr)

    def _prepare(self, number: Any) -> Example:
        """Make one row ready, its pictures decoded, resized and cut."""
        example = self._example(number)
        try:
            pictures = tuple(p if self._known(p.digest) else p.opened() for p in example.pictures)
        except Exception as error:
            raise DataError(f"{example.name}: {error}") from None
        return replace(example, pictures=pictures)

    def _example(self, number: Any) -> Example:
        settings = self._settings
        return make_example(
            self.rows[number],
            self._processor,
            train_on_prompt=settings.train_on_prompt,
            max_length=settings.max_seq_length,
            max_pictures=settings.max_pictures,
            truncate=settings.truncate,
        )
