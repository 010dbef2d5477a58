"""Read paths that a person typed, pasted or dragged into a terminal: quoted, escaped, as URLs, or with plain spaces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from mm1_mlx.inputs.sources import path_of_file_url

LONGEST = 4096  # characters of a path as it was typed
DRAGGED = re.compile(r"""['"]?(/|~|file://)""")  # terminals write whole paths, some as URLs, some in quotes
SHELL = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<one>.)|(?P<plain>[^'"\\]+)""", re.S
)


def picture_paths(text: str) -> tuple[list[str], str]:
    """Return the paths of files that ``text`` begins with, and the text after them.

    A path with plain spaces is the longest start of the text that is a file.
    """
    paths: list[str] = []
    while found := _first_path(text.lstrip()):
        path, text = found
        paths.append(path)
    return paths, text.strip()


def dragged_paths(line: str) -> tuple[list[str], str]:
    """Return what ``picture_paths`` does, but for whole paths only: a question may begin with the name of a file."""
    paths: list[str] = []
    while DRAGGED.match(line.lstrip()) and (found := _first_path(line.lstrip())):
        path, line = found
        paths.append(path)
    return paths, line.strip()


def one_path(text: str) -> str:
    """Read all of ``text`` as one path, which need not exist."""
    readings = [*_readings(text.lstrip()), *_readings(text.strip())]  # an escaped space may end the path
    return next((path for path in readings if os.path.exists(path)), readings[-1])


def _first_path(text: str) -> tuple[str, str] | None:
    """Return the longest start of ``text``, up to white space or the end, that is a file, and what follows it."""
    ends = [space.start() for space in re.finditer(r"\s|\Z", text[: LONGEST + 1])]
    for end in reversed(ends):
        for path in _readings(text[:end]):
            if os.path.isfile(path):
                return path, text[end:]
    return None


def _readings(text: str) -> Iterator[str]:
    """Yield the paths that ``text`` may mean: first read literally, then as a shell reads it."""
    for reading in (text, _unquote(text)):
        if reading is None:
            continue
        path = path_of_file_url(reading) or reading
        yield os.path.expanduser(path.replace("\0", ""))  # no path can hold that character


def _unquote(text: str) -> str | None:
    """Return ``text`` without a shell's quotes and escapes, or None where a quote is not closed."""
    parts: list[str] = []
    end = 0
    while end < len(text):
        match = SHELL.match(text, end)
        if match is None:
            return None
        part = match[match.lastgroup or "plain"]
        parts.append(re.sub(r'\\([$`"\\])', r"\1", part) if match.lastgroup == "double" else part)
        end = match.end()
    return "".join(parts)
