"""Text for people: control characters, which could steer a terminal, are written out as ``\\x1b``."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from mm1_mlx.errors import CONTROLS

COMMANDING = re.compile(f"[{CONTROLS}]")


def escape_controls(text: str) -> str:
    """Return text in which each control character but tab and newline is written as ``\\x`` and two digits."""
    return COMMANDING.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\r\n", "\n"))


class Terminal:
    """A text stream to a terminal, which gets no control characters but tab and newline.

    Args:
        stream: the stream; all of it but ``write`` stays as it is.
        has_bars: keep the carriage returns with which progress bars begin and end what they write.
    """

    def __init__(self, stream: Any, *, has_bars: bool):
        self._stream, self._has_bars = stream, has_bars

    def write(self, text: str) -> int:
        """Write text, with its control characters written out."""
        inner = text.strip("\r") if self._has_bars else text
        head, _, tail = text.partition(inner) if inner else (text, "", "")
        self._stream.write(head + escape_controls(inner) + tail)
        return len(text)

    def flush(self) -> None:
        """Send what was written to the terminal."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guard_terminals() -> Iterator[None]:
    """Send no control characters to stdout and stderr while the context lasts, where they are terminals."""
    with contextlib.ExitStack() as stack:
        if _is_terminal(sys.stdout):
            stack.enter_context(contextlib.redirect_stdout(Terminal(sys.stdout, has_bars=False)))
        if _is_terminal(sys.stderr):
            stack.enter_context(contextlib.redirect_stderr(Terminal(sys.stderr, has_bars=True)))
        yield


def _is_terminal(stream: Any) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False
