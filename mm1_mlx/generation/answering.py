"""A request that is being answered: its prepared prompt, and the pieces of its answer up to where it stops."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from mm1_mlx.generation.request import Request
from mm1_mlx.generation.stops import Stops
from mm1_mlx.generation.timing import Timing
from mm1_mlx.inputs.content import content_of
from mm1_mlx.inputs.processor import Processor

REPLACEMENT = "\ufffd"  # ends the text of an answer that stops within a character
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """The next piece of an answer; the last one has a ``finish_reason``."""

    text: str
    token: int
    timing: Timing  # as far as it is known; complete on the last piece
    finish_reason: FinishReason | None


class Answering:
    """A prepared prompt, and the timed pieces of its answer.

    Args:
        request: the prompt and its pictures.
        processor: from ``load``; errors are those of calling it.
        stop: texts that end the answer, in addition to the request's.
    """

    def __init__(self, request: Request, processor: Processor, stop: Sequence[str] = ()):
        self._begun, self._first = time.perf_counter(), None  # times of the start and of the first token
        self._stops, self.timing = Stops((*request.stop, *stop)), Timing()
        with self.timing.phase("preprocess"):
            self.inputs = request.prepare(processor)
            self.content = content_of(self.inputs, processor.config.image_token_id)
        if self.inputs.pictures:
            while processor.notices:
                print(processor.notices.pop(0), file=sys.stderr)
        self.timing.prompt_tokens = len(self.content)
        self.timing.visual_tokens = self.inputs.num_visual_tokens

    def add(self, text: str, token: int, finish_reason: FinishReason | None) -> Piece:
        """Make a piece of the next token and the text that it completes."""
        now, timing = time.perf_counter(), self.timing
        if self._first is None:
            self._first = now
            timing.first_token = now - self._begun
        timing.decode = now - self._first
        timing.generation_tokens += 1
        timing.peak_memory = mx.get_peak_memory()
        if finish_reason is not None:
            text = text.rstrip(REPLACEMENT)
        shown = self._stops.feed(text, last=finish_reason is not None)
        return Piece(shown, token, timing, "stop" if self._stops.found else finish_reason)
