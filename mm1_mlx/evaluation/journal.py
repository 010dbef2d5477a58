"""Predictions on disk: block by block during a run, in order at its end; a later run goes on with them.

While it runs, blocks are appended to ``predictions.jsonl.partial``, whose first line holds the settings; at the end all
lines stand in ``predictions.jsonl``, and the settings in ``results.json``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.rescoring import EXPECTED
from mm1_mlx.evaluation.results import Line
from mm1_mlx.evaluation.tasks.places import read_json
from mm1_mlx.evaluation.writing import Cell, Writer
from mm1_mlx.files.json_lines import write_line
from mm1_mlx.files.locking import lock_folder
from mm1_mlx.files.writing import new_file, require_file

PREDICTIONS, RESULTS = "predictions.jsonl", "results.json"
TABLES, DRAWING = "results.md", "results.png"
SCORED = ("score", "ranked_score")  # added at the end of a run

Key = tuple[str, int, int, bool, str]  # task, shots, seed, swapped, query


class Journal:
    """The answers so far.

    Args:
        folder: the folder of the evaluation; None keeps nothing on disk.
        settings: what the answers depend on.
        resume: go on with the answers in the folder.

    Raises:
        DataError: the folder has an evaluation and ``resume`` is off, another process writes to it, it had other
            settings, or it cannot be read or written.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any], *, resume: bool):
        self._lines: dict[Key, Line] = {}
        self._file: TextIO | None = None
        if folder is None:
            return
        self._folder, self._made = folder, not folder.exists()
        self._partial = folder / f"{PREDICTIONS}.partial"
        with ExitStack() as held:
            self._keep(held)
            kept = self._take_up(settings, resume=resume)
            self._begin([{"settings": settings}, *kept])
            self._held = held.pop_all()

    def _keep(self, held: ExitStack) -> None:
        """Make the folder and lock it against other evaluations."""
        try:
            held.enter_context(lock_folder(self._folder))
        except BlockingIOError:
            raise DataError(
                f"another process is writing to {self._folder}; wait until it ends, or give another `output`."
            ) from None
        except OSError as error:
            raise _explain_not_written(self._folder, error) from None

    def _take_up(self, settings: dict[str, Any], *, resume: bool) -> list[Line]:
        """Read the answers of earlier runs; return those that are in no report yet."""
        done = self._folder / PREDICTIONS
        for path in (done, self._partial, self._folder / RESULTS):
            require_file(path)
        foreign = [name for name in (RESULTS, TABLES, DRAWING) if (self._folder / name).exists()]
        if foreign and not (done.exists() or self._partial.exists()):
            raise DataError(
                f"{self._folder} holds {foreign[0]} but no {PREDICTIONS}, so it is no evaluation's; give another `output`."
            )
        if (done.exists() or self._partial.exists()) and not resume:
            raise DataError(
                f"{self._folder} holds an evaluation already; go on with it (`resume`), or give another `output`."
            )
        if done.exists():
            report = self._folder / RESULTS
            theirs = _find_settings(read_json(report) if report.exists() else None, report)
            _require_same_settings(theirs, settings, self._folder)
            self._take(_require_known_data(_read_lines(done, headed=False), theirs, report))
        lines = _read_lines(self._partial, headed=True) if self._partial.exists() else []
        if not lines:
            return []
        header, *kept = lines
        theirs = _find_settings(header, self._partial)
        _require_same_settings(theirs, settings, self._folder)
        self._take(_require_known_data(kept, theirs, self._partial))
        return kept

    def _begin(self, lines: Sequence[Line]) -> None:
        """Write the answers that are in no report to a new file, without a last line that was cut off."""
        try:
            with new_file(self._partial) as temporary:
                temporary.write_text(format_lines(lines), "utf-8")
            self._file = self._partial.open("a", encoding="utf-8")
        except OSError as error:
            raise _explain_not_written(self._folder, error) from None

    def _take(self, lines: Sequence[Line]) -> None:
        for line in lines:
            own = {name: value for name, value in line.items() if name not in SCORED}
            self._lines[_make_key(own)] = own

    def require_asked(self, cells: Collection[tuple[str, Cell]]) -> None:
        """Refuse to go on with fewer passes than before, whose answers would be lost.

        Raises:
            DataError: names a pass in the folder that is not in ``cells``.
        """
        for task, shots, seed, swapped, _ in self._lines:
            if (task, Cell(shots, seed, swapped)) not in cells:
                control = ", `swapped`" if swapped else ""
                raise DataError(
                    f"the output holds more than is asked for now: {task} with `shots` {shots}, `shot_seeds` {seed}"
                    f"{control}. Ask for that too, or give another `output`."
                )

    def find_block(self, writer: Writer, cell: Cell, indices: Sequence[int]) -> list[Line] | None:
        """Return the lines of a block if all its answers are there; else None, so that the whole block is asked again.

        A query that failed counts as answered where failed queries are left out.
        """
        queries, task = [writer.exam.queries[index] for index in indices], writer.exam.task.name
        keys = [(task, cell.shots, cell.seed, cell.swapped, query.id) for query in queries]
        lines: list[Line] = []
        for query, key in zip(queries, keys, strict=True):
            line = self._lines.get(key)
            if line is None or ("error" in line and not writer.skip_missing):
                return None
            if "error" not in line and line.get("references") != list(query.answers):
                return None
            if writer.ranks(query) and not {"ranked", "error"} & line.keys():
                return None
            lines.append(line)
        return lines

    def add(self, lines: Sequence[Line]) -> None:
        """Add a block to the answers and write it to disk at once."""
        self._take(lines)
        self._write(lines)

    def finish(self) -> None:
        """Remove the file of blocks, because a report has them all."""
        if self._file is not None:
            self._partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file of blocks, which ``resume`` reads later; remove it where there are no answers."""
        if self._file is None:
            return
        with suppress(OSError):  # what could not be written has been told
            self._file.close()
        if not self._lines:
            self._partial.unlink(missing_ok=True)
            if self._made:
                with suppress(OSError):  # something else was put there
                    self._folder.rmdir()
        self._held.close()

    def _write(self, lines: Sequence[Line]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(format_lines(lines))
            self._file.flush()
        except OSError as error:
            raise _explain_not_written(self._partial, error) from None


def format_lines(lines: Sequence[Line]) -> str:
    """Return lines in the text form of a JSON-lines file."""
    return "".join(map(write_line, lines))


def _make_key(line: Line) -> Key:
    return (line["task"], line["shots"], line["seed"], line.get("swapped", False), line["id"])


def _read_lines(path: Path, *, headed: bool) -> list[Line]:
    """Read the lines of a file, which may end within one; if ``headed``, the first holds settings."""
    texts = path.read_text("utf-8", errors="replace").split("\n")
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            is_header = headed and number == 1
            if not isinstance(line, dict) or not (is_header or _is_prediction(line)):
                raise ValueError
        except (ValueError, RecursionError):
            if not any(rest.strip() for rest in texts[number:]):  # the line was cut off when the run ended
                break
            raise DataError(f"{path}, line {number} is no prediction; give another `output`.") from None
        lines.append(line)
    return lines


def _is_prediction(line: dict[str, Any]) -> bool:
    names = all(isinstance(line.get(name), str) for name in ("task", "id"))
    numbers = all(type(line.get(name)) is int for name in ("shots", "seed"))
    rest = all(fits(line[name]) for name, (fits, _) in EXPECTED.items() if name in line)
    return names and numbers and rest and isinstance(line.get("error", line.get("answer")), str)


def _find_settings(values: Any, path: Path) -> dict[str, Any]:
    """Return the settings that a report, or the first line of the blocks, holds."""
    settings = values.get("settings") if isinstance(values, dict) else None
    if not isinstance(settings, dict):
        raise DataError(
            f"{path} does not say with which settings the predictions beside it were made; give another `output`."
        )
    return settings


def _require_known_data(lines: list[Line], settings: dict[str, Any], path: Path) -> list[Line]:
    """Return the lines, unless the settings in ``path`` do not say on which data some were made."""
    for task in (line["task"] for line in lines if line["task"] not in settings["data"]):
        raise DataError(
            f"{path} does not say on which data the answers of {task} were made; give another `output`."
        )
    return lines


def _explain_not_written(folder: Path, error: OSError) -> DataError:
    return DataError(f"`output` {folder} cannot be written: {error.strerror}.")


def _require_same_settings(theirs: dict[str, Any], ours: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with answers that were made with other settings, weights or data, or nobody knows with which."""
    for name, value in ours.items():
        if name not in theirs:
            raise DataError(
                f"{folder} does not say with which `{name}` its answers were made; give another `output`."
            )
        was = theirs[name]
        if isinstance(value, dict) != isinstance(was, dict):
            raise DataError(f"{folder}: the settings of its answers are damaged; give another `output`.")
        if name == "data":
            other = [task for task, own in value.items() if _differ(was.get(task, {}), own)]
            if other:
                raise DataError(
                    f"{folder}: the data of {', '.join(other)} have changed; give another `output`."
                )
        elif name == "weights" and was != value:
            raise DataError(f"{folder} was made by another model or other weights; give another `output`.")
        elif isinstance(value, dict):
            _require_same_settings(was, value, folder)
        elif was != value:
            raise DataError(
                f"{folder} was made with `{name}` {was}, not {value}; give the same, or another `output`."
            )


def _differ(theirs: Any, ours: dict[str, str]) -> bool:
    if not isinstance(theirs, dict):
        return True
    return any(theirs.get(split, digest) != digest for split, digest in ours.items())
