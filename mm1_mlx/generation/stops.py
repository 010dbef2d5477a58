"""Stop texts, which end an answer wherever they appear in it, even across tokens."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Passes text on up to the first stop text, and holds back what may be the beginning of one.

    Args:
        texts: the stop texts, none of them empty. Without any, all text is passed on at once.
    """

    def __init__(self, texts: Sequence[str] = ()):
        self._texts = tuple(texts)
        self._held = ""
        self.found = False

    def feed(self, text: str, *, last: bool = False) -> str:
        """Add the next text, and return what can be shown now; after the ``last`` text, everything that is left."""
        self._held += text
        ends = [end for end in (self._held.find(stop) for stop in self._texts) if end >= 0]
        if ends:
            self.found = True
            return self._take(min(ends))
        keep = 0 if last else max((self._count_overlap(stop) for stop in self._texts), default=0)
        return self._take(len(self._held) - keep)

    def _count_overlap(self, stop: str) -> int:
        """Count the characters at the end of the held text that may be the beginning of ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken
