"""Where an answer ends before the model says so: at a text, found however its tokens fall."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Lets text through up to the first of ``texts``; holds back what may be the start of one.

    Args:
        texts: none of them empty; where there is none, everything goes through at once.
    """

    def __init__(self, texts: Sequence[str] = ()):
        self._texts = tuple(texts)
        self._held = ""
        self.found = False

    def feed(self, text: str, *, last: bool = False) -> str:
        """Return what may be shown now that ``text`` came; all that is left where it was the ``last``."""
        self._held += text
        ends = [end for end in (self._held.find(stop) for stop in self._texts) if end >= 0]
        if ends:
            self.found = True
            return self._take(min(ends))
        keep = 0 if last else max((self._overlap(stop) for stop in self._texts), default=0)
        return self._take(len(self._held) - keep)

    def _overlap(self, stop: str) -> int:
        """Characters at the end of what is held that begin ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken
