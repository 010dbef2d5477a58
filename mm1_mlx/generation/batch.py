"""Answers to many prompts, gathered from the engine's events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from mm1_mlx.arguments import require_type
from mm1_mlx.errors import PromptError, SamplingError
from mm1_mlx.generation.decoding import Decoding
from mm1_mlx.generation.engine import Engine
from mm1_mlx.generation.request import Request
from mm1_mlx.generation.timing import Timing
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import BATCH_SIZE, MAX_TOKENS, PREFILL_STEP_SIZE, Sampling
from mm1_mlx.vision.cache import VisionCache


@dataclass(frozen=True)
class Answer:
    """The answer to one request, or the error that prevented it."""

    number: int  # the request's place in the batch, from 0
    text: str
    finish_reason: Literal["stop", "length", "error"]
    timing: Timing = field(default_factory=Timing)  # first_token and decode include waiting for others
    error: str | None = None  # why there is no text, in words


def batch_generate(
    model: MM1,
    processor: Processor,
    requests: Iterable[Request],
    *,
    batch_size: int = BATCH_SIZE,
    max_tokens: int = MAX_TOKENS,
    sampling: Sampling | None = None,
    prefill_step_size: int = PREFILL_STEP_SIZE,
    vision_batch_size: int | None = None,
    vision_cache: VisionCache | None = None,
) -> list[Answer]:
    """Return all answers, in the order of the requests. Arguments and errors are those of ``stream_batch``."""
    answers = stream_batch(
        model,
        processor,
        requests,
        batch_size=batch_size,
        max_tokens=max_tokens,
        sampling=sampling,
        prefill_step_size=prefill_step_size,
        vision_batch_size=vision_batch_size,
        vision_cache=vision_cache,
    )
    return sorted(answers, key=lambda answer: answer.number)


def stream_batch(
    model: MM1,
    processor: Processor,
    requests: Iterable[Request],
    *,
    batch_size: int = BATCH_SIZE,
    max_tokens: int = MAX_TOKENS,
    sampling: Sampling | None = None,
    prefill_step_size: int = PREFILL_STEP_SIZE,
    vision_batch_size: int | None = None,
    vision_cache: VisionCache | None = None,
) -> Iterator[Answer]:
    """Yield answers as they finish. A request that cannot be answered gives an answer with its ``error``.

    Args:
        model: from ``load``.
        processor: from ``load``.
        requests: prompts with any number of pictures each; they are read as they are needed.
        batch_size: number of answers written together. Each has its own KV cache.
        max_tokens: the longest answer, in tokens; the context may end it sooner.
        sampling: how tokens are chosen. By default greedily, so that answers are the same as one by one.
        prefill_step_size: prompt tokens processed at once.
        vision_batch_size: views encoded together; by default as many as free memory allows.
        vision_cache: where visual tokens are kept; by default in a cache for this batch.

    Raises:
        SamplingError: a setting is out of range, or mlx-lm cannot batch this decoder.
    """
    decoding = Decoding(
        max_tokens=max_tokens,
        sampling=Sampling() if sampling is None else sampling,
        prefill_step_size=prefill_step_size,
        vision_batch_size=vision_batch_size,
    )
    require_type("requests", requests, Iterable, PromptError)
    require_type("vision_cache", vision_cache, VisionCache | None, SamplingError)
    engine = Engine(model, processor, decoding, batch_size=batch_size, vision_cache=vision_cache)
    with closing(engine):
        yield from answers_of(engine, requests)


def answers_of(engine: Engine, requests: Iterable[Request]) -> Iterator[Answer]:
    """Yield an engine's answers to requests as they finish; the engine must have no other requests.

    A request that cannot be answered gives an answer with its ``error``.
    """
    upcoming, texts = iter(requests), defaultdict(str)
    numbers: dict[int, int] = {}  # places of the requests, by the engine's ids
    while True:
        for request in islice(upcoming, 0 if engine.num_waiting else engine.window):
            require_type("requests", request, Request, PromptError)
            numbers[engine.add(request)] = len(numbers)
        if not engine.num_waiting + engine.num_running:
            return
        for event in engine.step():
            number = numbers[event.id]
            piece = event.piece
            if piece is None:  # then the event has an error
                yield Answer(number, "", "error", error=" ".join(str(event.error).split()))
                continue
            texts[number] += piece.text
            if piece.finish_reason is not None:
                yield Answer(number, texts.pop(number), piece.finish_reason, piece.timing)
