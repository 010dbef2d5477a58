"""Read JSON-lines files, which hold one JSON object a line; shots and batches of prompts come in them."""

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
