"""Open training rows from a folder or the Hugging Face hub; each is read and parsed only when it is asked for.

A folder has ``train.jsonl``, ``valid.jsonl`` and ``test.jsonl``, those that are wanted: one row a line, in any of the
forms of ``row_forms``.
"""

from __future__ import annotations

import copy
import io
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Int64

from mm1_mlx.checkpoint.hub import HUB_ID
from mm1_mlx.data.hub_rows import load_hub_rows
from mm1_mlx.data.row_forms import Record, read_row
from mm1_mlx.errors import DataError, PromptError
from mm1_mlx.files.json_lines import parse_object
from mm1_mlx.strict import shown

Split = Literal["train", "valid", "test"]

OTHER_NAMES = {"valid": ("validation", "val", "dev"), "test": ()}  # other common names of splits
BLANK = b" \t\r\n\v\f\xef\xbb\xbf"  # the last three are a byte order mark


@runtime_checkable
class Records(Protocol):
    """Rows by number, each parsed when any thread asks for it; a list of records is also one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record:
        """Return a row, parsed.

        Raises:
            DataError: the row cannot be used; the message names it, its field and what to do.
        """
        ...


@dataclass(frozen=True, eq=False)
class RecordFile:
    """The rows of a JSON-lines file; only the start of each line is in memory."""

    path: Path
    starts: Int64[np.ndarray, "R"]  # positions in bytes of the lines that hold a row
    lines: Int64[np.ndarray, "R"]  # numbers of these lines, from 1
    stamp: tuple[int, int]  # the file's size and time when it was opened

    @property
    def name(self) -> str:
        return str(self.path)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Record:
        name = self.row_name(index)
        try:
            with self.path.open("rb") as file:
                if _stamp(file) != self.stamp:
                    raise DataError(f"{self.path} has changed since it was opened; start again.")
                file.seek(int(self.starts[index]))
                line = file.readline()
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}; put the file back.") from None
        return read_row(_parse_line(line, name), name=name, folder=self.path.parent)

    def row_name(self, index: int) -> str:
        return f"{self.path}, line {self.lines[index]}"


@dataclass(frozen=True, eq=False)
class HubRecords:
    """The rows of one split of a Hugging Face data set, which stays on disk."""

    name: str
    rows: Any  # a ``datasets.Dataset`` that gives Arrow tables
    features: Any  # the ``datasets.Features`` that decode all of a row but its pictures

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        (row,) = self.rows[index].to_pylist()
        return read_row(self.features.decode_example(row), name=self.row_name(index), folder=None)

    def row_name(self, index: int) -> str:
        return f"{self.name}[{index}]"


NamedRecords = RecordFile | HubRecords  # records that have a name, and one for each row


def open_data(source: str, *, needed: Split = "train") -> dict[Split, NamedRecords]:
    """Open the splits of a folder, or of a data set on the Hugging Face hub.

    Args:
        source: a folder; or a hub id, owner/name, with a colon and its configuration where it has several.
        needed: the split that there must be.

    Raises:
        DataError: there is no such data set, or it lacks the split that is needed.
    """
    folder = Path(os.path.expanduser(source))
    if os.path.isdir(folder):
        return open_folder(folder, needed=needed)
    if os.path.exists(folder):
        raise DataError(f"{source} is a file; call it train.jsonl and give the folder that it is in.")
    if HUB_ID.fullmatch(source.partition(":")[0]):
        return _open_hub(source, needed)
    raise DataError(f"{shown(source)} is no folder here and no hub id (owner/name); give one of them.")


def open_folder(folder: Path, *, needed: Split = "train") -> dict[Split, NamedRecords]:
    """Open the splits of a folder, of which the one that is ``needed`` must exist.

    Raises:
        DataError: a file is missing, misnamed, empty or no JSON lines.
    """
    found: dict[Split, NamedRecords] = {}
    for split in get_args(Split):
        path = folder / f"{split}.jsonl"
        if path.exists():
            found[split] = open_records(path)
            continue
        for other in OTHER_NAMES.get(split, ()):
            if (folder / f"{other}.jsonl").exists():
                raise DataError(f"{folder / other}.jsonl would not be read; rename it to {path.name}.")
        if split == needed:
            names = sorted(entry.name for entry in folder.iterdir() if ".json" in entry.name)
            raise DataError(
                f"there is no {path.name} in {folder}{' but ' * bool(names)}{', '.join(names[:5])}; "
                "write one JSON object a line there."
            )
    return found


def open_records(path: Path) -> RecordFile:
    """Open the rows of one file; blank lines are skipped, and other lines are parsed only when they are asked for.

    Raises:
        DataError: it cannot be read, is empty, or is one JSON list.
    """
    starts, lines = array("q"), array("q")
    position = 0
    try:
        with path.open("rb") as file:
            stamp = _stamp(file)
            for number, line in enumerate(file, 1):
                content = line.strip(BLANK)
                if content:
                    if not starts and content.startswith(b"["):
                        raise DataError(
                            f"{path} is a JSON list; write one object a line, as `jq -c '.[]' FILE` does."
                        )
                    starts.append(position)
                    lines.append(number)
                position += len(line)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give a JSON-lines file.") from None
    if not starts:
        raise DataError(f"{path} holds no rows; write one JSON object a line, or delete it.")
    return RecordFile(path, np.array(starts, np.int64), np.array(lines, np.int64), stamp)


def _stamp(file: io.BufferedReader) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _parse_line(line: bytes, name: str) -> dict[str, Any]:
    try:
        return parse_object(line.decode("utf-8-sig").rstrip())
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: this is not UTF-8 ({error.reason}); save the file as UTF-8.") from None
    except PromptError as error:
        raise DataError(f"{name}: {error}") from None


def _open_hub(source: str, needed: Split) -> dict[Split, NamedRecords]:
    try:
        splits = load_hub_rows(source)
    except ImportError:
        raise DataError(
            f"{source} is no folder here; to take it from the Hugging Face hub, run: pip install 'mm1-mlx[data]'."
        ) from None
    found: dict[Split, NamedRecords] = {}
    for split in get_args(Split):
        key = next((key for key in (split, *OTHER_NAMES.get(split, ())) if key in splits), None)
        if key is not None and len(splits[key]):
            features = copy.deepcopy(splits[key].features)
            _leave_encoded(features)
            found[split] = HubRecords(f"{source}, {key}", splits[key].with_format("arrow"), features)
    if needed not in found:
        raise DataError(
            f"{source} has no rows in a split {needed} (its splits: {', '.join(map(str, splits))}); give another."
        )
    return found


def _leave_encoded(feature: Any) -> None:
    """Set pictures anywhere in a row to stay encoded, to be opened later; JSON inside a row is decoded."""
    if hasattr(feature, "decode") and type(feature).__name__ != "Json":
        feature.decode = False
    nested = [feature.feature] if hasattr(feature, "feature") else []
    inner = feature.values() if isinstance(feature, dict) else feature if isinstance(feature, list) else ()
    for part in (*inner, *nested):
        _leave_encoded(part)
