"""An engine that answers many requests together; requests can be added and cancelled at any time.

mlx-lm's ``BatchGenerator`` decodes; this file adds pictures and shared beginnings. Prompts that begin in the same way
(with the same worked examples, or with one picture and different questions) are answered next to each other. Their
shared beginning is encoded and read once, and every prompt continues from a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mm1_mlx.arrays import to_list
from mm1_mlx.errors import MM1Error, SamplingError
from mm1_mlx.generation.answering import Answering, Piece
from mm1_mlx.generation.decoding import Decoding, require_at_least_1
from mm1_mlx.generation.likelihood import Likelihood, score_continuations
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.reading import read
from mm1_mlx.generation.request import Request
from mm1_mlx.generation.stream import answer_alone
from mm1_mlx.inputs.content import shared_length
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import Prompt
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import BATCH_SIZE, Template
from mm1_mlx.vision.cache import VisionCache

WINDOW = 8  # shared beginnings are searched among this many batches of requests


@dataclass(frozen=True)
class Event:
    """The result of a step for one request: the next piece of its answer, or an error, after which nothing follows."""

    id: int  # the request's id, which ``add`` returned
    piece: Piece | None = None  # the last one has a ``finish_reason``
    error: MM1Error | None = None


@dataclass(frozen=True)
class _Running:
    """An answer that is written together with others."""

    id: int
    answering: Answering
    detokenizer: Any

    def add(self, response: Any) -> Piece:
        """Make a piece of mlx-lm's next response."""
        if response.finish_reason != "stop":
            self.detokenizer.add_token(response.token)
        if response.finish_reason is not None:
            self.detokenizer.finalize()
        return self.answering.add(self.detokenizer.last_segment, response.token, response.finish_reason)


class Engine:
    """Takes requests at any time, and writes one more token of every answer at each step.

    Args:
        model: from ``load``.
        processor: from ``load``.
        decoding: settings of every answer.
        batch_size: number of answers written together. Each has its own KV cache.
        vision_cache: where visual tokens are kept; by default in a cache of the engine's own.
        prefix: a beginning that prompts share, already read; it is not changed.

    Raises:
        SamplingError: a setting is out of range, or mlx-lm cannot batch this decoder or these settings.
    """

    def __init__(
        self,
        model: MM1,
        processor: Processor,
        decoding: Decoding,
        *,
        batch_size: int = BATCH_SIZE,
        vision_cache: VisionCache | None = None,
        prefix: Prefix | None = None,
    ):
        from mlx_lm.generate import BatchGenerator

        require_at_least_1("batch_size", batch_size)
        if (decoding.max_kv_size, decoding.kv_bits) != (None, None):
            raise SamplingError(
                "mlx-lm's batches keep all positions, unpacked: they exclude `max_kv_size` and `kv_bits`."
            )
        self._model, self._processor, self._decoding = model, processor, decoding
        self._batch_size = batch_size
        self._vision_cache = VisionCache() if vision_cache is None else vision_cache
        self._trunk = Prefix(model) if prefix is None else prefix.fork()  # the shared beginning of prompts
        self._scored = self._trunk.fork()  # the prompt of the last call of ``score``
        unable = {type(entry).__name__ for entry in self._trunk.cache if not hasattr(entry, "merge")}
        if unable:
            raise SamplingError(
                f"mlx-lm cannot batch this {model.config.text_config.model_type} decoder ({', '.join(sorted(unable))}); "
                "answer one by one."
            )
        self._generator = BatchGenerator(
            model,
            stop_tokens=[[id] for id in processor.tokenizer.eos_token_ids],
            sampler=decoding.make_sampler(model),
            completion_batch_size=batch_size,
            prefill_batch_size=batch_size,
        )
        self._num_added = 0
        self._waiting: dict[int, Request] = {}  # by id, in the order of arrival
        self._lined_up: dict[int, Answering] = {}  # by id, ordered so that neighbours share the most
        self._running: dict[int, _Running] = {}  # by mlx-lm's number
        self._alone: dict[int, Iterator[Piece]] = {}  # by id; answers that mlx-lm cannot batch
        if decoding.sampling.seed is not None:
            mx.random.seed(decoding.sampling.seed)

    @property
    def window(self) -> int:
        """The number of requests among which shared beginnings are searched; add this many before a step."""
        return WINDOW * self._batch_size

    @property
    def num_waiting(self) -> int:
        """The number of requests whose answers have not begun."""
        return len(self._waiting) + len(self._lined_up)

    @property
    def num_running(self) -> int:
        """The number of answers that are being written."""
        return len(self._running) + len(self._alone)

    def add(self, request: Request) -> int:
        """Add a request, and return its id, counted from 0. An error in it becomes an event of a later step."""
        self._waiting[self._num_added] = request
        self._num_added += 1
        return self._num_added - 1

    def cancel(self, id: int) -> None:
        """Drop a request, so that no more events of it follow; one that has ended already is ignored."""
        for there in (self._waiting, self._lined_up, self._alone):
            there.pop(id, None)
        for uid in [uid for uid, running in self._running.items() if running.id == id]:
            self._generator.remove([uid])
            del self._running[uid]

    def step(self) -> list[Event]:
        """Begin waiting requests, up to ``batch_size`` at once, and write one more token of every answer."""
        events: list[Event] = []
        while self.num_waiting and self.num_running < self._batch_size:
            if not self._lined_up:
                events += self._line_up()
                continue
            id = next(iter(self._lined_up))
            try:
                self._begin(id, self._lined_up.pop(id))
            except MM1Error as error:
                events.append(Event(id, error=error))
        return [*events, *self._write_alone(), *self._write_together()]

    def score(
        self,
        prompt: Prompt,
        images: Sequence[Source],
        continuations: str | Sequence[str],
        *,
        system: str | None = None,
        template: Template = "chat",
        num_low_resolution: int = 0,
    ) -> list[Likelihood]:
        """Compute how likely each continuation is as the answer or its beginning; nothing is written.

        The prompt is read once for all continuations. What it shares with the previous prompt is not read again.

        Args:
            prompt: a question or chat messages, as for ``stream_generate``.
            images: the pictures of the prompt, in reading order.
            continuations: one text or several, exactly as they follow the prompt, with spaces: " red".
            system: a system message.
            template: "chat", or "plain" for a prompt that is continued as it is.
            num_low_resolution: encode this many of the first pictures as one view each.

        Raises:
            MM1Error: a picture or the prompt is not usable, or a continuation is empty or does not fit the context.
        """
        return score_continuations(
            self._model,
            self._processor,
            Request(prompt, images, system, template, num_low_resolution=num_low_resolution),
            [continuations] if isinstance(continuations, str) else continuations,
            self._scored,
            decoding=self._decoding,
            batch_size=self._batch_size,
            vision_cache=self._vision_cache,
        )

    def close(self) -> None:
        """Free what mlx-lm has reserved."""
        self._generator.close()

    def _line_up(self) -> Iterator[Event]:
        """Prepare the oldest requests, order them so that neighbours share the most, and yield errors as events."""
        found = {}
        for id in list(self._waiting)[: self.window]:
            try:
                found[id] = Answering(self._waiting.pop(id), self._processor, self._decoding.stop)
            except MM1Error as error:
                yield Event(id, error=error)
        self._lined_up = dict(sorted(found.items(), key=lambda item: item[1].content))

    def _begin(self, id: int, answering: Answering) -> None:
        """Read a prompt up to its last token; what it shares with the next prompt is read first, and kept."""
        content, last = answering.content, len(answering.content) - 1
        following = next((other.content for other in self._lined_up.values()), [])
        shared = min(shared_length(content, following), last)
        if shared > shared_length(self._trunk.content, content):
            read(self._model, self._trunk, answering, shared, self._decoding, self._vision_cache)
        own, tokenizer = self._trunk.fork(), self._processor.tokenizer
        if content[last] < 0:  # a picture ends the prompt, but mlx-lm's batches must begin with text
            self._alone[id] = answer_alone(
                self._model, tokenizer, answering, self._decoding, own, self._vision_cache
            )
            return
        read(self._model, own, answering, last, self._decoding, self._vision_cache)
        answering.timing.prefilled_tokens += 1
        ids, room = (
            to_list(answering.inputs.input_ids),
            self._decoding.limit_tokens(self._model, len(content)),
        )
        (uid,) = self._generator.insert([ids[last:]], [room], caches=[own.cache], all_tokens=[ids[:last]])
        self._running[uid] = _Running(id, answering, tokenizer.detokenizer)

    def _write_alone(self) -> Iterator[Event]:
        """Write one more token of each answer that mlx-lm cannot batch."""
        for id, pieces in list(self._alone.items()):
            try:
                event = Event(id, next(pieces))
            except MM1Error as error:
                event = Event(id, error=error)
            if event.piece is None or event.piece.finish_reason is not None:
                del self._alone[id]
            yield event

    def _write_together(self) -> Iterator[Event]:
        """Write one more token of each answer in mlx-lm's batch."""
        for response in self._generator.next_generated() if self._running else ():
            running = self._running[response.uid]
            piece = running.add(response)
            if piece.finish_reason is not None:
                if response.finish_reason is None:  # a stop text was found
                    self._generator.remove([response.uid])
                del self._running[response.uid]
            yield Event(running.id, piece)
