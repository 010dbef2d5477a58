"""Stream a data set of the Hugging Face hub: read it in order, shuffle within a window, never store all of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from mm1_mlx.data.hub_rows import load_hub_rows
from mm1_mlx.data.row_forms import Record, read_row
from mm1_mlx.errors import DataError

SHUFFLED = 1000  # rows in the window from which the next one is taken
KEPT = 4096  # earlier rows that slower threads and processes may still ask for


class Stream:
    """Rows by the number of the draw; asking for one that is no longer kept reads the stream from its start again.

    Args:
        name: what to call it in messages.
        rows: a ``datasets.IterableDataset``.
        columns: its column for each key of a row, where it has another name.
    """

    num_rows = None  # unknown

    def __init__(self, name: str, rows: Any, columns: Mapping[str, str]):
        self.name, self._data, self._columns = name, rows, columns
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._rows, self._read, self._passed = self._endless(), 0, {}
        self._end: str | None = None  # why the stream has ended

    def _endless(self) -> Iterator[dict[str, Any]]:
        """Yield the rows epoch after epoch, each time shuffled differently."""
        epoch = 0
        while True:
            self._data.set_epoch(epoch)
            before = self._read
            yield from self._data
            if self._read == before:
                raise DataError(f"{self.name} gave no rows; name another data set or split.")
            epoch += 1

    def draw(self, number: int) -> Record:
        with self._lock:
            if number < self._read and number not in self._passed:
                self._begin()
            while self._read <= number:
                self._passed[self._read] = self._next()
                self._passed.pop(self._read - KEPT, None)
                self._read += 1
            values = self._passed[number]
        for column in self._columns.values():
            if column not in values:
                raise DataError(f"{self.name} has no column {column}; its columns: {', '.join(values)}.")
        renamed = {key: values[column] for key, column in self._columns.items()}
        values = {key: value for key, value in values.items() if key not in self._columns.values()} | renamed
        return read_row(values, name=f"{self.name}, row {number}", folder=None)

    def _next(self) -> dict[str, Any]:
        if self._end is None:  # after an error, a generator gives nothing more
            try:
                return next(self._rows)
            except DataError as error:
                self._end = str(error)
            except (
                Exception
            ) as error:  # the hub's client raises many kinds of errors; each one ends the stream
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                self._end = f"{self.name} stopped after {self._read:,} rows: {reason}"
        raise DataError(self._end)


def open_stream(name: str, split: str, columns: Mapping[str, str], seed: int) -> Stream:
    """Open a stream.

    Raises:
        DataError: the hub does not give the data set, or ``datasets`` is not installed.
    """
    try:
        rows = load_hub_rows(name, split=split, streaming=True)
    except ImportError:
        raise DataError(
            f"to stream {name} from the Hugging Face hub, run: pip install 'mm1-mlx[data]'."
        ) from None
    rows = rows.decode(False)  # pictures stay encoded, to be opened later
    return Stream(name, rows.shuffle(seed=seed, buffer_size=SHUFFLED), columns)
