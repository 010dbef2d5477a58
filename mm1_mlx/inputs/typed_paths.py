"""Paths that a person typed, pasted or dragged into a terminal: quoted, escaped, URLs, plainly with spaces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

LONGEST = 4096  # characters that a path may take up as it was typed
DRAGGED = re.compile(r"""['"]?(/|~|file://)""")  # terminals write whole paths, some as URLs, some in quotes
SHELL = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<one>.)|(?P<plain>[^'"\\]+)""", re.S
)


def picture_paths(text: str) -> tuple[list[str], str]:
    """The paths of files that ``text`` begins with, and the text behind them.

    A path with plain spaces is the longest start of the text that is a file.
    """
    paths: list[str] = []
    while found := _first(text.lstrip()):
        path, text = found
        paths.append(path)
    return paths, text.strip()


def dragged_paths(line: str) -> tuple[list[str], str]:
    """As ``picture_paths``, but of whole paths alone: a question may begin with the name of a file."""
    paths: list[str] = []
    while DRAGGED.match(line.lstrip()) and (found := _first(line.lstrip())):
        path, line = found
        paths.append(path)
    return paths, line.strip()


def one_path(text: str) -> str:
    """All of ``text`` as one path, which need not exist."""
    readings = [*_readings(text.lstrip()), *_readings(text.strip())]  # an escaped space may end it
    return next((path for path in readings if os.path.exists(path)), readings[-1])


def _first(text: str) -> tuple[str, str] | None:
    """The longest start of ``text`` up to a white space or the end that is a file, and what follows."""
    ends = [space.start() for space in re.finditer(r"\s|\Z", text[: LONGEST + 1])]
    for end in reversed(ends):
        for path in _readings(text[:end]):
            if os.path.isfile(path):
                return path, text[end:]
    return None


def _readings(text: str) -> Iterator[str]:
    """What ``text`` may mean as a path: as it stands, then as a shell takes it."""
    for reading in (text, _unquoted(text)):
        if reading is None:
            continue
        url = re.match(r"file://(?:localhost)?(/.*)", reading, re.S | re.I)
        path = unquote(url[1], errors="surrogateescape") if url else reading
        yield os.path.expanduser(path.replace("\0", ""))  # which no path can hold


def _unquoted(text: str) -> str | None:
    """``text`` without a shell's quotes and escapes, or None where a quote is not closed."""
    parts: list[str] = []
    end = 0
    while end < len(text):
        match = SHELL.match(text, end)
        if match is None:
            return None
        part = match[match.lastgroup]
        parts.append(re.sub(r'\\([$`"\\])', r"\1", part) if match.lastgroup == "double" else part)
        end = match.end()
    return "".join(parts)
