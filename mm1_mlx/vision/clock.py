"""The phases of encoding pictures, for those who want to measure them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class Clock:
    """An observer of the work of encoding pictures, which measures nothing; subclasses measure the time of each phase."""

    encoded_views: int = 0  # views that went through the image encoder, because their tokens were not cached

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Return a context manager for the work of a phase: "preprocess", "encoder", "connector" or "prefill" (placing
        tokens).
        """
        return nullcontext()
