"""Read and write JSON-lines files, which hold one JSON object a line; shots and batches of prompts come in them.

A file that grows line by line may end in a torn one, where the process was killed or the disk was full.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, TextIO

from mm1_mlx.errors import PromptError
from mm1_mlx.files.writing import require_file

SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, which UTF-8 cannot hold


def read_json_lines(path: str | Path, *, holds: str) -> dict[int, dict[str, Any]]:
    """Return the JSON objects of a file by line number, from 1; blank lines are skipped.

    Args:
        path: the file; ``~`` is the home folder.
        holds: what the lines describe, for messages, such as "shots".

    Raises:
        PromptError: the file cannot be read, or one of its lines is not a JSON object.
    """
    path = Path(os.path.expanduser(path))
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # splitlines would also cut inside a JSON text
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PromptError(f"{path} cannot be read: {reason}; give a JSON-lines file of {holds}.") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found[number] = parse_object(line)
        except PromptError as error:
            raise PromptError(f"{path}, line {number}: {error}") from None
    if not found:
        raise PromptError(f"{path} holds no {holds}; write one JSON object a line.")
    return found


def write_line(values: Any) -> str:
    """Return values as one line of JSON, in which characters that UTF-8 cannot hold are escaped."""
    text = json.dumps(values, ensure_ascii=False)
    return SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


def read_grown(path: Path) -> list[Any]:
    """Return the JSON values of a file that grew line by line, without lines that were torn; none where it is absent.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: it is no regular file.
    """
    require_file(path)
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return found


def holds_lines(path: Path, is_own: Callable[[Any], bool]) -> bool:
    """Tell whether a file that grew has such a line, or but one line, which may have been torn when it was written."""
    return any(map(is_own, read_grown(path))) or path.read_bytes().count(b"\n") == 0


def open_grown(path: Path) -> TextIO:
    """Open a file to append lines to it, after ending a last line that is whole and cutting off one that is not.

    Raises:
        OSError: the file cannot be written.
        CheckpointError: it is no regular file.
    """
    require_file(path)
    with path.open("ab+") as file:
        file.seek(0)
        whole, newline, tail = file.read().rpartition(b"\n")
        try:
            json.loads(tail)
            file.write(b"\n")
        except (ValueError, RecursionError):
            file.truncate(len(whole) + len(newline))
    return path.open("a", encoding="utf-8")


def parse_object(line: str) -> dict[str, Any]:
    """Return the JSON object that one line holds.

    Raises:
        PromptError: the line is not JSON, or not an object.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = getattr(error, "msg", error)
        raise PromptError(f"this is not JSON ({reason}{where}); write one object a line.") from None
    if not isinstance(values, dict):
        raise PromptError(f"this is {shorten(repr(values), 60, placeholder='…')}, expected a JSON object.")
    return values


def require_known(values: dict[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that is not one of the known keys.

    Raises:
        PromptError: there is such a key; the message names the nearest known one.
    """
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}."
            raise PromptError(f"there is no key {key!r}; {hint}")
