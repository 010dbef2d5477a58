"""An answer on its way: token by token to text, up to where it stops."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mm1_mlx.generation.request import Prepared
from mm1_mlx.generation.stops import Stops
from mm1_mlx.generation.timing import Timing


@dataclass(frozen=True)
class Piece:
    """The next bit of text; the last one has a ``finish_reason``: "stop" or "length"."""

    text: str
    token: int
    timing: Timing  # as far as known; complete on the last piece
    finish_reason: str | None


class Writing:
    """Makes pieces of an answer's text, and counts its tokens and its time.

    Args:
        prompt: that is answered; the timing is its own.
        stop: texts that end the answer, beside the prompt's own.
    """

    def __init__(self, prompt: Prepared, stop: Sequence[str] = ()):
        self._prompt = prompt
        self._stops = Stops((*prompt.stop, *stop))
        self._first: float | None = None  # when the first token came

    def add(self, text: str, token: int, finish_reason: str | None) -> Piece:
        """Take the next token and the text that it completes."""
        now, timing = time.perf_counter(), self._prompt.timing
        if self._first is None:
            self._first = now
            timing.first_token = now - self._prompt.begun
        timing.decode = now - self._first
        timing.generation_tokens += 1
        timing.peak_memory = mx.get_peak_memory()
        shown = self._stops.feed(text, last=finish_reason is not None)
        return Piece(shown, token, timing, "stop" if self._stops.found else finish_reason)
