"""Predictions on disk: block by block while a run goes on, in order when it is done, and taken up again.

While it runs, blocks are appended to ``predictions.jsonl.partial``, whose first line holds the settings; at the end all
lines stand in ``predictions.jsonl``, and the settings in ``results.json``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.results import Line
from mm1_mlx.evaluation.tasks.places import read_json
from mm1_mlx.evaluation.writing import Cell, Writer
from mm1_mlx.files.writing import new_file

PREDICTIONS, RESULTS = "predictions.jsonl", "results.json"
SCORED = ("score", "ranked_score")  # added when all is there

Key = tuple[str, int, int, bool, str]  # task, shots, seed, swapped, query


class Journal:
    """What was answered so far.

    Args:
        folder: of the evaluation; None keeps nothing on disk.
        settings: what answers depend on.
        resume: go on with what is there.

    Raises:
        DataError: there is an evaluation and ``resume`` is off, it had other settings, or it cannot be read or written.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any], *, resume: bool):
        self._lines: dict[Key, Line] = {}
        self._file = None
        if folder is None:
            return
        done, partial = folder / PREDICTIONS, folder / f"{PREDICTIONS}.partial"
        there = [path for path in (done, partial) if path.exists()]
        if there and not resume:
            raise DataError(
                f"{folder} holds an evaluation already; go on with it (`resume`), or give another `output`."
            )
        kept: list[Line] = []
        if done.exists():
            _require_same(read_json(folder / RESULTS).get("settings", {}), settings, folder)
            self._take(_lines_of(done))
        if partial.exists():
            header, *kept = _lines_of(partial) or [{"settings": settings}]
            _require_same(header.get("settings", {}), settings, folder)
            self._take(kept)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with new_file(partial) as temporary:  # without a line that was cut off
                temporary.write_text(json_lines([{"settings": settings}, *kept]), "utf-8")
            self._file = partial.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(f"`output` {folder} cannot be written: {error.strerror}.") from None

    def _take(self, lines: Sequence[Line]) -> None:
        for line in lines:
            own = {name: value for name, value in line.items() if name not in SCORED}
            self._lines[_key(own)] = own

    def require_asked(self, cells: Collection[tuple[str, Cell]]) -> None:
        """Refuse to go on with less than was asked before: what is left out would be lost.

        Raises:
            DataError: says what is there besides ``cells``.
        """
        for task, shots, seed, swapped, _ in self._lines:
            if (task, Cell(shots, seed, swapped)) not in cells:
                control = ", `swapped`" if swapped else ""
                raise DataError(
                    f"the output holds more than is asked for now: {task} with `shots` {shots}, `shot_seeds` {seed}"
                    f"{control}. Ask for that too, or give another `output`."
                )

    def block(self, writer: Writer, cell: Cell, indices: Sequence[int]) -> list[Line] | None:
        """Return the lines of a block where all are there; else None, and it is asked again as a whole."""
        queries, task = [writer.exam.queries[index] for index in indices], writer.exam.task.name
        keys = [(task, cell.shots, cell.seed, cell.swapped, query.id) for query in queries]
        lines = [self._lines.get(key) for key in keys]
        for query, line in zip(queries, lines, strict=True):
            if line is None or (writer.ranks(query) and not {"ranked", "error"} & line.keys()):
                return None
        return lines

    def add(self, lines: Sequence[Line]) -> None:
        """Keep a block, on disk at once."""
        self._take(lines)
        self._write(lines)

    def close(self) -> None:
        """Leave the blocks so far where ``resume`` finds them."""
        if self._file is not None:
            self._file.close()

    def _write(self, lines: Sequence[Line]) -> None:
        if self._file is not None:
            self._file.write(json_lines(lines))
            self._file.flush()


def json_lines(lines: Sequence[Line]) -> str:
    """Return lines as a file has them."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _key(line: Line) -> Key:
    return (line["task"], line["shots"], line["seed"], line.get("swapped", False), line["id"])


def _lines_of(path: Path) -> list[Line]:
    """Return the lines of a file that may end in the middle of one."""
    texts = path.read_text("utf-8", errors="replace").split("\n")
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or ("settings" not in line and None in _key(line)):
                raise ValueError
        except (ValueError, KeyError):
            if not any(rest.strip() for rest in texts[number:]):  # cut off when the run ended
                break
            raise DataError(f"{path}, line {number} is no prediction; give another `output`.") from None
        lines.append(line)
    return lines


def _require_same(theirs: dict[str, Any], ours: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with answers that were made otherwise."""
    for name in (name for name in ours if name in theirs):
        was, value = theirs[name], ours[name]
        if name == "data":
            other = [task for task, own in value.items() if _differ(was.get(task, {}), own)]
            if other:
                raise DataError(
                    f"{folder}: the data of {', '.join(other)} have changed; give another `output`."
                )
        elif name == "weights" and was != value:
            raise DataError(f"{folder} was made by another model or other weights; give another `output`.")
        elif isinstance(value, dict):
            _require_same(was, value, folder)
        elif was != value:
            raise DataError(
                f"{folder} was made with `{name}` {was}, not {value}; give the same, or another `output`."
            )


def _differ(theirs: dict[str, str], ours: dict[str, str]) -> bool:
    return any(theirs.get(split, digest) != digest for split, digest in ours.items())
