"""Files of prompts and of their answers, which are written in the order of the prompts and can be resumed.

While a batch runs, answers are appended to ``OUT.jsonl.partial`` as they finish. At the end they are written to
``OUT.jsonl`` in the order of their prompts, completely or not at all. With ``resume``, prompts whose answers are in
either file are not asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_mlx.errors import PromptError
from mm1_mlx.files.json_lines import read_json_lines, require_known
from mm1_mlx.files.writing import new_file
from mm1_mlx.inputs.sources import locate

KEYS = ("prompt", "image", "images", "system", "id")


@dataclass(frozen=True)
class Row:
    """One prompt of the file."""

    line: int  # from 1
    prompt: str
    images: Sequence[str]  # paths, already joined to the file's folder, or data: URLs and web addresses
    system: str | None
    id: Any  # the user's own identifier, copied to the answer
    values: dict[str, Any]  # all values as they are in the file


def read_rows(path: str | Path, *, prompt: str | None = None, system: str | None = None) -> list[Row]:
    """Read the rows of a JSON-lines file: ``prompt``, ``image`` or ``images``, ``system``, ``id``.

    Args:
        path: the file.
        prompt: prompt for rows that have none.
        system: system message for rows that have none.

    Raises:
        PromptError: the file or one of its rows is wrong; the message names line and field.
    """
    folder = Path(os.path.expanduser(path)).parent
    rows = []
    for line, values in read_json_lines(path, holds="prompts").items():
        try:
            rows.append(_make_row(line, values, folder, prompt, system))
        except PromptError as error:
            raise PromptError(f"{path}, line {line}: {error}") from None
    return rows


def _make_row(line: int, values: dict[str, Any], folder: Path, prompt: str | None, system: str | None) -> Row:
    require_known(values, KEYS)
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
    return Row(line, prompt, found, values.get("system", system), values.get("id"), values)


class AnswerFile:
    """The answers of a batch, on disk.

    Args:
        output: the file for all answers.
        rows: the prompts of the batch.
        settings: everything else that an answer depends on; earlier answers made with other settings are not used.
        resume: use the answers that an earlier run has written.

    Raises:
        PromptError: there are answers already and ``resume`` is off, or they cannot be read.
    """

    def __init__(self, output: Path, rows: Sequence[Row], settings: dict[str, Any], *, resume: bool):
        self.path, self.partial = output, output.with_name(output.name + ".partial")
        self._rows = {row.line: row for row in rows}
        self._settings = json.dumps(settings, sort_keys=True)
        self.answers: dict[int, dict[str, Any]] = {}
        for file in (self.path, self.partial):
            if not file.exists():
                continue
            if not resume:
                raise PromptError(
                    f"{file} is there already; `resume` goes on with it, or give another `output`."
                )
            self._read_answers(file)
        _require_folder(output)
        self._journal = self.partial.open("a", encoding="utf-8")

    def _read_answers(self, file: Path) -> None:
        lines = file.read_text("utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, 1):
            try:
                answer = json.loads(line) if line.strip() else {}
            except ValueError:
                if number == len(lines):  # cut off when the earlier run ended
                    continue
                raise PromptError(f"{file}, line {number} is no answer; give another `output`.") from None
            row = self._rows.get(answer.get("line", 0)) if isinstance(answer, dict) else None
            if row is not None and "error" not in answer and answer.get("request") == self._hash_request(row):
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
        own = {"line": row.line} | ({} if row.id is None else {"id": row.id})
        self.answers[row.line] = own | values | {"request": self._hash_request(row)}
        self._journal.write(json.dumps(self.answers[row.line], ensure_ascii=False) + "\n")
        self._journal.flush()

    def close(self) -> None:
        """Close the partial file, in which ``resume`` finds the answers so far."""
        self._journal.close()

    def finish(self) -> None:
        """Write all answers in the order of their prompts to the output, and delete the partial file."""
        self._journal.close()
        ordered = [json.dumps(self.answers[line], ensure_ascii=False) + "\n" for line in self._rows]
        with new_file(self.path) as temporary:
            temporary.write_text("".join(ordered), "utf-8")
        self.partial.unlink()


def _require_folder(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise PromptError(f"`output` {path} cannot be written; give a file in a folder that exists.")
