"""Open sources of rows: JSON lines, tar shards, Parquet shards, a stream of the hub, or a generator.

A source gives a row for every draw, 0, 1, 2 and so on without end. One that has a number of rows is read epoch after
epoch, each in its own order. So only the draw's number and the seed decide which row it is.
"""

from __future__ import annotations

import glob
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from mm1_mlx.data.parquet_shards import WANTED, open_parquet
from mm1_mlx.data.records import Records, open_records
from mm1_mlx.data.row_forms import Record, read_row
from mm1_mlx.data.sampler import order, order_by_groups
from mm1_mlx.data.streams import open_stream
from mm1_mlx.data.tar_shards import open_tar
from mm1_mlx.errors import DataError
from mm1_mlx.strict import Config

Generator = Callable[[int, int], dict[str, Any]]  # a row's number and a seed -> the row
READERS: dict[str, Callable[[Path, Mapping[str, str]], Records]] = {
    ".jsonl": lambda path, columns: open_records(path),
    ".tar": lambda path, columns: open_tar(path),
    ".parquet": open_parquet,
}
MOST_SHARDS = 1_000_000
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")  # WebDataset's way to name shards


@dataclass(frozen=True)
class SourceSettings(Config):
    """One source of a mixture, as a recipe gives it: a ``path``, a ``hub`` id or a ``generator``."""

    called: ClassVar[str] = "source"

    weight: float | None = None  # share of the rows; None: as the mixture's preset says
    # A file, a folder with train.jsonl, or a pattern: shards/{000..099}.tar, data/*.parquet.
    path: str | None = None
    hub: str | None = None  # owner/name, or owner/name:configuration, which is streamed
    generator: str | None = None  # makes rows from a seed: tiny:captions
    split: str = "train"  # split of a hub data set
    columns: dict = field(default_factory=dict)  # column of the Parquet or hub data for each key of a row
    max_bad_rows: float = 0.01  # share of the rows that may be damaged; beyond it the run stops
    max_bad_shards: float = 0.1  # the same for shards

    def __post_init__(self) -> None:
        given = [name for name in ("path", "hub", "generator") if getattr(self, name) is not None]
        self._require(
            len(given) == 1,
            f"{' and '.join(given) or 'nothing'} is given, expected one of path, hub, generator.",
        )
        self._require(getattr(self, given[0]) != "", f"{given[0]} is empty; write what it is.")
        self._require(
            self.weight is None or 0 < self.weight <= 1,
            f"weight is {self.weight}, expected more than 0, at most 1.",
        )
        for name in ("max_bad_rows", "max_bad_shards"):
            value = getattr(self, name)
            self._require(0 <= value <= 1, f"{name} is {value}, expected 0 to 1.")
        for key, column in self.columns.items():
            self._require(
                key in WANTED and isinstance(column, str),
                f"columns has {key}: {column}, expected a key of a row ({', '.join(WANTED)}) and a column's name.",
            )
        self._require(
            not self.columns or self.generator is None, "columns are those of Parquet or of the hub."
        )

    def identity(self) -> dict[str, Any]:
        """Return which rows the source reads, but not where they lie: files may be moved, and damaged rows mended."""
        return {name: getattr(self, name) for name in ("generator", "hub", "split", "columns")}


@runtime_checkable
class Source(Protocol):
    """Rows by the number of the draw, for any thread that asks."""

    @property
    def num_rows(self) -> int | None:
        """Rows of an epoch; None where there is no end."""
        ...

    def draw(self, number: int) -> Record:
        """Return the row of a draw.

        Raises:
            DataError: the row is damaged.
        """
        ...


class Shards:
    """Rows of several files, one file after the other.

    Args:
        files: the rows of each file; at least one file.
    """

    def __init__(self, files: Sequence[Records]):
        self._files, self._stops = files, list(accumulate(map(len, files)))

    def __len__(self) -> int:
        return self._stops[-1]

    def __getitem__(self, index: int) -> Record:
        shard = bisect_right(self._stops, index)
        return self._files[shard][index - (self._stops[shard - 1] if shard else 0)]

    @property
    def groups(self) -> list[int]:
        """Numbers of consecutive rows that are read together, in order."""
        return [size for file in self._files for size in getattr(file, "groups", [len(file)])]


class Epochs:
    """A source with a number of rows, read epoch after epoch.

    Args:
        rows: all rows.
        seed: seed of the orders.
        number: the source's place in the mixture, so that each source has its own orders.
    """

    def __init__(self, rows: Shards, seed: int, number: int):
        self.num_rows, self._rows = len(rows), rows
        together = any(hasattr(file, "groups") for file in rows._files)

        @lru_cache(maxsize=2)
        def choose_order(epoch: int) -> Int64[np.ndarray, "R"]:
            key = (epoch, number)
            return order_by_groups(rows.groups, seed, *key) if together else order(len(rows), seed, *key)

        self._order = choose_order

    def draw(self, number: int) -> Record:
        epoch, place = divmod(number, self.num_rows)
        return self._rows[int(self._order(epoch)[place])]


@dataclass(frozen=True)
class Generated:
    """Rows that a function makes; they never repeat, and nothing is on disk."""

    name: str
    make: Generator
    seed: int
    num_rows: None = None

    def draw(self, number: int) -> Record:
        return read_row(self.make(number, self.seed), name=f"{self.name}, row {number}", folder=None)


def open_source(
    settings: SourceSettings,
    *,
    seed: int,
    number: int,
    generators: Mapping[str, Generator],
    say: Callable[[str], Any],
) -> Source:
    """Open a source.

    Args:
        settings: settings of the source.
        seed: seed of the run.
        number: the source's place in the mixture.
        generators: the generators that it can name.
        say: called with a line about each shard that is left out.

    Raises:
        DataError: there is no such source, it has no rows, or too many of its shards are damaged.
    """
    if settings.generator is not None:
        if settings.generator not in generators:
            raise DataError(
                f"there is no generator {settings.generator!r}; there are {', '.join(generators) or 'none here'}."
            )
        return Generated(settings.generator, generators[settings.generator], seed)
    if settings.hub is not None:
        return open_stream(settings.hub, settings.split, settings.columns, seed)
    return Epochs(open_shards(settings, say=say), seed, number)


def open_shards(settings: SourceSettings, *, say: Callable[[str], Any]) -> Shards:
    """Open the files that a source's path names; a limited share of them may be damaged, and is left out.

    Raises:
        DataError: there is no such file, none has rows, or too many are damaged.
    """
    if settings.path is None:
        raise ValueError("the source has no path.")
    paths = find_files(settings.path)
    found, damaged = [], []
    for path in paths:
        reader = READERS.get(path.suffix)
        if reader is None:
            raise DataError(f"{path} is no kind of data that is known; expected {', '.join(READERS)}.")
        if settings.columns and reader is not open_parquet:
            raise DataError(f"{path} has no columns; leave them out, or rename the keys of its rows.")
        try:
            found.append(reader(path, settings.columns))
        except DataError as error:
            if len(paths) == 1:
                raise
            damaged.append(str(error))
    if not found or len(damaged) > settings.max_bad_shards * len(paths):
        raise DataError(
            f"{len(damaged)} of {len(paths)} shards cannot be used, more than max_bad_shards "
            f"{settings.max_bad_shards:g} of them: {damaged[0]}"
        )
    for reason in damaged:
        say(f"a shard is left out: {reason}")
    return Shards(found)


def find_files(path: str) -> list[Path]:
    """Return the files that a path or a pattern names, in order.

    Raises:
        DataError: there are none.
    """
    names = [os.path.expanduser(path)]
    while match := BRACES.search(names[0]):
        first, last = match[1], match[2]
        if int(last) - int(first) > MOST_SHARDS:
            raise DataError(f"{path} names more than {MOST_SHARDS:,} files; join some of them.")
        numbers = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
        names = [BRACES.sub(number, name, count=1) for name in names for number in numbers]
        if not names:
            raise DataError(f"{path} names no files: {first} is more than {last}.")
    if len(names) == 1 and os.path.isdir(names[0]):
        names = [os.path.join(names[0], "train.jsonl")]
    if len(names) == 1:
        names = sorted(glob.glob(names[0])) or names
    missing = next((name for name in names if not os.path.isfile(name)), None)
    if missing is not None:
        raise DataError(
            f"{path}: there is no file {missing}; give files, a pattern, or a folder with train.jsonl."
        )
    return [Path(name) for name in names]
