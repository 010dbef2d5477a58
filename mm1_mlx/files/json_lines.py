"""JSON lines: files of one JSON object a line, as shots and batches are given."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from mm1_mlx.errors import PromptError


def read_json_lines(path: str | Path, *, holds: str) -> dict[int, dict[str, Any]]:
    """Return the objects of a file by line number, from 1. Blank lines are passed over.

    Args:
        path: the file; ``~`` is the home folder.
        holds: what its lines are, for messages: "shots".

    Raises:
        PromptError: the file or one of its lines is at fault.
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


def parse_object(line: str) -> dict[str, Any]:
    """Return the object that one line holds.

    Raises:
        PromptError: it is no JSON, or no object.
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
    """Refuse a key that means nothing.

    Raises:
        PromptError: names it, and one like it.
    """
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}."
            raise PromptError(f"there is no key {key!r}; {hint}")
