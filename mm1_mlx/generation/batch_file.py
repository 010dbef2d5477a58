"""Files of prompts and of their answers, which are written in the order of the prompts and can be resumed.

While a batch runs, answers are appended to ``OUT.jsonl.partial`` as they finish. At the end they are written to
``OUT.jsonl`` in the order of their prompts, completely or not at all. With ``resume``, prompts whose answers are in
either file are not asked again.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_mlx.errors import PromptError
from mm1_mlx.files.json_lines import holds_lines, open_grown, read_grown, read_json_lines, write_line
from mm1_mlx.files.locking import lock_path
from mm1_mlx.files.writing import name_failures, new_file, require_file
from mm1_mlx.inputs.sources import locate

KEYS = ("prompt", "image", "images", "system", "id")
WORDS = {  # parts of a key that may mean one of ``KEYS``, where the row lacks that
    "prompt": ("prompt", "question", "query", "instruction", "messages", "conversations"),
    "image": ("image", "img", "picture", "photo"),
    "system": ("system",),
}
WRITTEN = ("line", "text", "finish_reason", "request", "error")  # keys that every answer may have


@dataclass(frozen=True)
class Row:
    """One prompt of the file."""

    line: int  # from 1
    prompt: str
    images: Sequence[str]  # paths, already joined to the file's folder, or data: URLs and web addresses
    system: str | None
    own: dict[str, Any]  # the user's own values, such as an id, copied to the answer
    values: dict[str, Any]  # all values as they are in the file


def read_rows(
    path: str | Path, *, prompt: str | None = None, system: str | None = None, written: Sequence[str] = ()
) -> list[Row]:
    """Read the rows of a JSON-lines file: ``prompt``, ``image`` or ``images``, ``system``, and the user's own values.

    Args:
        path: the file.
        prompt: prompt for rows that have none.
        system: system message for rows that have none.
        written: further keys that answers will have, which no row may have.

    Raises:
        PromptError: the file or one of its rows is wrong; the message names line and field.
    """
    folder = Path(os.path.expanduser(path)).parent
    rows = []
    for line, values in read_json_lines(path, holds="prompts").items():
        try:
            own = _find_own(values, {*WRITTEN, *written})
            rows.append(_make_row(line, values, folder, prompt, system, own))
        except PromptError as error:
            raise PromptError(f"{path}, line {line}: {error}") from None
    return rows


def _find_own(values: dict[str, Any], written: set[str]) -> dict[str, Any]:
    """Return the values that the row has for its user alone.

    Raises:
        PromptError: one has the name of a value of the answer, or may be meant for another one that the row lacks.
    """
    lacking = {name: words for name, words in WORDS.items() if values.get(name) is None}
    if values.get("images") is not None:
        lacking.pop("image", None)
    for key in values:
        if key in KEYS:
            continue
        if key in written:
            raise PromptError(f"the key {key!r} is one that the answer will have; give it another name.")
        names = [*lacking, "images"] if "image" in lacking else list(lacking)
        meant = difflib.get_close_matches(key.lower(), names, n=1, cutoff=0.8)
        meant += [name for name, words in lacking.items() if any(word in key.lower() for word in words)]
        if meant:
            raise PromptError(
                f"there is no key {key!r}; did you mean {meant[0]}? If not, give it another name."
            )
    return {key: value for key, value in values.items() if key == "id" or key not in KEYS}


def _make_row(
    line: int,
    values: dict[str, Any],
    folder: Path,
    prompt: str | None,
    system: str | None,
    own: dict[str, Any],
) -> Row:
    if "image" in values and "images" in values:
        raise PromptError("image and images do not go together; keep one of them.")
    images = values.get("images", [values["image"]] if values.get("image") is not None else [])
    if not isinstance(images, list) or not all(isinstance(image, str) and image.strip() for image in images):
        raise PromptError(f"images are {images!r}, expected paths or data: URLs.")
    prompt = values.get("prompt", prompt)
    if prompt is None:
        raise PromptError("there is no prompt; add it, or give `prompt` for all rows.")
    for name, text in (("prompt", prompt), ("system", values.get("system"))):
        if not isinstance(text, str | None):
            raise PromptError(f"{name} is {text!r}, expected text.")
    found = [str(locate(image, folder)) for image in images]
    return Row(line, prompt, found, values.get("system", system), own, values)


class AnswerFile:
    """The answers of a batch, on disk; the file is locked against other processes until it is closed.

    Args:
        output: the file for all answers.
        rows: the prompts of the batch.
        settings: everything else that an answer depends on; earlier answers made with other settings are not used.
        resume: use the answers that an earlier run has written.

    Raises:
        CheckpointError: a file has the name of the output and holds no answers.
        PromptError: there are answers already and ``resume`` is off, another process writes them, or they cannot be
            read.
        OSError: the files cannot be written.
    """

    def __init__(self, output: Path, rows: Sequence[Row], settings: dict[str, Any], *, resume: bool):
        self.path, self.partial = output, output.with_name(output.name + ".partial")
        self._rows = {row.line: row for row in rows}
        self._settings = json.dumps(settings, sort_keys=True)
        self.answers: dict[int, dict[str, Any]] = {}
        _require_folder(output)
        require_file(self.path, is_kind=_holds_answers, kind="file of answers")
        require_file(self.partial, is_kind=lambda file: holds_lines(file, _is_answer), kind="file of answers")
        with ExitStack() as held:
            self._lock(held)
            held.callback(self._drop_empty)
            for file in (self.path, self.partial):
                if file.exists() and file.stat().st_size:
                    if not resume:
                        raise PromptError(
                            f"{file} is there already; `resume` goes on with it, or give another `output`."
                        )
                    self._read_answers(file)
            self._journal = held.enter_context(open_grown(self.partial))
            self._held = held.pop_all()

    def _lock(self, held: ExitStack) -> None:
        try:
            held.enter_context(lock_path(self.partial, lambda: self.partial.touch(exist_ok=True)))
        except BlockingIOError:
            raise PromptError(
                f"another process is writing {self.path}; wait until it ends, or give another `output`."
            ) from None

    def _drop_empty(self) -> None:
        if self.partial.exists() and not self.partial.stat().st_size:
            self.partial.unlink()

    def _read_answers(self, file: Path) -> None:
        for answer in read_grown(file):
            row = self._rows.get(answer["line"]) if _is_answer(answer) else None
            if row is not None and "error" not in answer and answer["request"] == self._hash_request(row):
                self.answers[row.line] = answer

    def _hash_request(self, row: Row) -> str:
        """Return a short hash of a row and the settings, which is stored with the answer."""
        asked = json.dumps([row.values, row.prompt, row.system], sort_keys=True) + self._settings
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    @property
    def missing(self) -> list[Row]:
        """The rows that have no answer yet."""
        return [row for row in self._rows.values() if row.line not in self.answers]

    def add(self, row: Row, values: dict[str, Any]) -> None:
        """Add one answer, and write it to disk at once."""
        self.answers[row.line] = {"line": row.line, **row.own, **values, "request": self._hash_request(row)}
        with name_failures(self.partial, self.partial):
            self._journal.write(write_line(self.answers[row.line]))
            self._journal.flush()

    def close(self) -> None:
        """Close the partial file, in which ``resume`` finds the answers so far."""
        with name_failures(self.partial, self.partial):
            self._held.close()

    def finish(self) -> None:
        """Write all answers in the order of their prompts to the output, and delete the partial file."""
        with new_file(self.path, is_kind=_holds_answers, kind="file of answers") as temporary:
            temporary.write_text("".join(write_line(self.answers[line]) for line in self._rows), "utf-8")
        self.partial.unlink()
        self.close()


def _holds_answers(path: Path) -> bool:
    return any(map(_is_answer, read_grown(path)))


def _is_answer(values: Any) -> bool:
    if not isinstance(values, dict):
        return False
    texts = isinstance(values.get("text", values.get("error")), str) and isinstance(
        values.get("request"), str
    )
    return texts and type(values.get("line")) is int


def _require_folder(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise PromptError(f"`output` {path} cannot be written; give a file in a folder that exists.")
