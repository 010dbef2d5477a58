"""Read Parquet shards: image and caption, or OBELICS' columns ``images`` and ``texts``.

A row group is decoded as a whole, and few groups are in memory at once. So an epoch takes the rows of a few groups at a
time (``sampler.order_by_groups``).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from mm1_mlx.data.row_forms import FORMS, Record, read_row
from mm1_mlx.data.sampler import WINDOW
from mm1_mlx.errors import DataError

WANTED = (*FORMS, "image", "images", "answer", "answers", "rationale")


class ParquetShard:
    """The rows of a Parquet file.

    Args:
        path: the file.
        columns: the file's column for each key of a row, where it has another name.

    Raises:
        DataError: the file cannot be read, holds no rows, or lacks a column.
    """

    _decoded: OrderedDict[tuple[Path, int], Any] = OrderedDict()  # row groups, of all shards together
    _lock = threading.Lock()

    def __init__(self, path: Path, columns: Mapping[str, str]):
        import pyarrow.parquet

        self.path = path
        with _explain_damage(f"{path} cannot be read as Parquet"):
            self._file = pyarrow.parquet.ParquetFile(path)
            there = self._file.schema_arrow.names
        renamed = set(columns.values())  # these are not read under their own names too
        own = {key: key for key in WANTED if key in there and key not in renamed}
        self._columns = own | {key: column for key, column in columns.items() if column in there}
        twice = [column for column in self._columns.values() if there.count(column) > 1]
        if twice:
            raise DataError(f"{path} has two columns called {twice[0]}; rename one.")
        missing = [column for column in columns.values() if column not in there]
        if missing or not any(key in FORMS for key in self._columns):
            lacking = missing[0] if missing else "caption, or images and texts"
            raise DataError(
                f"{path} has no column {lacking}; its columns: {', '.join(there)}. Name them by columns."
            )
        metadata = self._file.metadata
        self.groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._stops = list(accumulate(self.groups))
        if not len(self):
            raise DataError(f"{path} holds no rows; leave it out.")

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __getitem__(self, index: int) -> Record:
        name = f"{self.path}, row {index}"
        group = next(number for number, stop in enumerate(self._stops) if index < stop)
        table = self._read_group(group, name)
        place = index - self._stops[group] + self.groups[group]
        with _explain_damage(f"{name} cannot be read"):
            values = {key: table.column(column)[place].as_py() for key, column in self._columns.items()}
        return read_row(values, name=name, folder=self.path.parent)

    def _read_group(self, number: int, name: str) -> Any:
        """Return a row group; the groups of all shards that were asked for last stay in memory."""
        key = (self.path, number)
        with self._lock:
            if key not in self._decoded:
                with _explain_damage(f"{name} cannot be read"):
                    table = self._file.read_row_group(number, columns=sorted(set(self._columns.values())))
                self._decoded[key] = table
                while len(self._decoded) > 2 * WINDOW:
                    self._decoded.popitem(last=False)
            self._decoded.move_to_end(key)
            return self._decoded[key]


@contextmanager
def _explain_damage(what: str) -> Iterator[None]:
    """Raise errors that damage causes inside the block, such as text that is not UTF-8, as a DataError."""
    import pyarrow

    try:
        yield
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{what} ({reason}); fetch the file again.") from None


def open_parquet(path: Path, columns: Mapping[str, str]) -> ParquetShard:
    """Open a shard.

    Raises:
        DataError: it cannot be read, or ``pyarrow`` is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise DataError(f"{path} is Parquet; to read it, run: pip install 'mm1-mlx[parquet]'.") from None
    return ParquetShard(path, columns)
