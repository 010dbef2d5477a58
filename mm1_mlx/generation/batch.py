"""Answer many prompts together. mlx-lm's ``BatchGenerator`` decodes; pictures and shared starts are ours.

Prompts that begin alike (the same worked examples, or one picture and many questions) are put side by side; their
shared start is encoded and read once, and every prompt goes on from a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import mlx.core as mx

from mm1_mlx.errors import MM1Error, SamplingError
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.stops import Stops
from mm1_mlx.generation.stream import make_token_sampler, require_at_least_1, room_for, stream_generate
from mm1_mlx.generation.timing import Timing
from mm1_mlx.inputs.content import content_of, shared_length
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import Prompt
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import BATCH_SIZE, MAX_TOKENS, PREFILL_STEP_SIZE, Sampling
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import embed

WINDOW = 8  # times the batch: so many prompts are looked at together for what they share


@dataclass(frozen=True)
class Request:
    """One prompt of a batch; the fields are the arguments of ``stream_generate``."""

    prompt: Prompt
    images: Sequence[Source] = ()
    system: str | None = None
    template: Literal["chat", "plain"] = "chat"
    stop: Sequence[str] = ()
    num_low_resolution: int = 0

    def prepare(self, processor: Processor) -> Inputs:
        """What the model reads of it; errors are the processor's."""
        return processor(
            self.prompt,
            self.images,
            system=self.system,
            template=self.template,
            num_low_resolution=self.num_low_resolution,
        )


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    number: int  # the request's place, from 0
    text: str
    finish_reason: Literal["stop", "length", "error"]
    timing: Timing = field(default_factory=Timing)  # its token counts; seconds of its encoding and prefill
    error: str | None = None  # why there is no text


def batch_generate(
    model: MM1, processor: Processor, requests: Iterable[Request], **options: Any
) -> list[Answer]:
    """All answers, in the order of the requests. Options and errors are those of ``stream_batch``."""
    return sorted(stream_batch(model, processor, requests, **options), key=lambda answer: answer.number)


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
        batch_size: answers written together. Each holds its own KV cache.
        max_tokens: the longest answer, in tokens; the context may end it sooner.
        sampling: how tokens are chosen; greedy by default, and then as one by one.
        prefill_step_size: prompt tokens processed at once.
        vision_batch_size: views encoded together; by default what free memory allows.
        vision_cache: where visual tokens are kept; by default in a cache for this batch.

    Raises:
        SamplingError: a setting is out of range, or mlx-lm cannot batch this decoder.
    """
    require_at_least_1(batch_size, "--batch-size")
    require_at_least_1(max_tokens, "--max-tokens")
    require_at_least_1(prefill_step_size, "--prefill-step-size")
    if vision_batch_size is not None:
        require_at_least_1(vision_batch_size, "--vision-batch-size")
    batch = _Batch(
        model,
        processor,
        max_tokens=max_tokens,
        sampling=sampling or Sampling(),
        batch_size=batch_size,
        prefill_step_size=prefill_step_size,
        embedding={
            "vision_batch_size": vision_batch_size,
            "vision_cache": VisionCache() if vision_cache is None else vision_cache,
        },
    )
    numbered = enumerate(requests)
    try:
        while window := list(islice(numbered, WINDOW * batch_size)):
            yield from batch.answer(window)
        while batch.running:
            yield from batch.step()
    finally:
        batch.generator.close()


@dataclass
class _Running:
    """An answer that is being written."""

    number: int
    detokenizer: Any
    stops: Stops
    timing: Timing
    text: str = ""


@dataclass(frozen=True)
class _Prepared:
    """A prompt that waits for its turn."""

    number: int
    request: Request
    inputs: Inputs
    content: list[int]


class _Batch:
    """The state between two answers: what is being written, and the start that prompts share."""

    def __init__(
        self,
        model: MM1,
        processor: Processor,
        *,
        max_tokens: int,
        sampling: Sampling,
        batch_size: int,
        prefill_step_size: int,
        embedding: dict[str, Any],
    ):
        from mlx_lm.generate import BatchGenerator

        self.model, self.processor = model, processor
        self.max_tokens, self.sampling, self.batch_size = max_tokens, sampling, batch_size
        self.prefill_step_size, self.embedding = prefill_step_size, embedding
        self.trunk = Prefix(model)
        unable = {type(c).__name__ for c in self.trunk.cache if not hasattr(c, "merge")}
        if unable:
            raise SamplingError(
                f"mlx-lm cannot batch this {model.config.text_config.model_type} decoder ({', '.join(sorted(unable))}); "
                "answer one by one."
            )
        self.generator = BatchGenerator(
            model,
            stop_tokens=[[id] for id in processor.tokenizer.eos_token_ids],
            sampler=make_token_sampler(sampling, model),
            completion_batch_size=batch_size,
            prefill_batch_size=batch_size,
        )
        self.running: dict[int, _Running] = {}
        if sampling.seed is not None:
            mx.random.seed(sampling.seed)

    def answer(self, window: Sequence[tuple[int, Request]]) -> Iterator[Answer]:
        """Begin all requests of ``window``; yield what finishes meanwhile."""
        waiting = []
        for number, request in window:
            timing = Timing()
            try:
                with timing.phase("preprocess"):
                    inputs = request.prepare(self.processor)
            except MM1Error as error:
                yield _failed(number, error)
                continue
            content = content_of(inputs, self.model.config.image_token_id)
            waiting.append(_Prepared(number, request, inputs, content))
        waiting.sort(key=lambda prepared: prepared.content)  # neighbours share the most
        following = [prepared.content for prepared in waiting[1:]] + [[]]
        for prepared, next_content in zip(waiting, following, strict=True):
            while len(self.running) >= self.batch_size:
                yield from self.step()
            try:
                yield from self._begin(prepared, shared_length(prepared.content, next_content))
            except MM1Error as error:
                yield _failed(prepared.number, error)

    def _begin(self, prepared: _Prepared, shared: int) -> Iterator[Answer]:
        """Read a prompt up to its last token; of it, ``shared`` positions begin the next prompt too."""
        inputs, request, timing = prepared.inputs, prepared.request, Timing()
        timing.prompt_tokens, timing.visual_tokens = len(inputs.input_ids), inputs.num_visual_tokens
        last = len(prepared.content) - 1
        if min(shared, last) > shared_length(self.trunk.content, prepared.content):
            self._read(self.trunk, prepared, min(shared, last), timing)
        own = self.trunk.fork()
        if prepared.content[last] < 0:  # a picture ends the prompt; mlx-lm's batches begin with text
            yield self._alone(prepared, own, timing)
            return
        self._read(own, prepared, last, timing)
        timing.prefilled_tokens += 1
        ids = inputs.input_ids.tolist()
        room = room_for(inputs, self.model, self.max_tokens)
        (uid,) = self.generator.insert([ids[last:]], [room], caches=[own.cache], all_tokens=[ids[:last]])
        detokenizer = self.processor.tokenizer.detokenizer
        self.running[uid] = _Running(prepared.number, detokenizer, Stops(request.stop), timing)

    def _read(self, prefix: Prefix, prepared: _Prepared, stop: int, timing: Timing) -> None:
        """Read a prompt into ``prefix``, from what they share to position ``stop``."""
        start = prefix.keep_shared(prepared.content[: stop + 1])
        timing.prefilled_tokens += stop - start
        if start == stop:
            return
        embeddings = embed(self.model, prepared.inputs, timing, start=start, stop=stop, **self.embedding)
        with timing.phase("prefill"):
            for begin in range(start, stop, self.prefill_step_size):
                end = min(begin + self.prefill_step_size, stop)
                self.model(
                    prepared.inputs.input_ids[None, begin:end],
                    cache=prefix.cache,
                    input_embeddings=embeddings[None, begin - start : end - start],
                )
                mx.eval([entry.state for entry in prefix.cache])
        prefix.extend(prepared.content[:stop], prepared.inputs)

    def _alone(self, prepared: _Prepared, prefix: Prefix, timing: Timing) -> Answer:
        pieces = list(
            stream_generate(
                self.model,
                self.processor,
                prepared.inputs,
                max_tokens=self.max_tokens,
                sampling=self.sampling,
                prefill_step_size=self.prefill_step_size,
                prefix=prefix,
                stop=prepared.request.stop,
                **self.embedding,
            )
        )
        own = pieces[-1].timing
        own.prefilled_tokens += timing.prefilled_tokens
        own.encoded_views += timing.encoded_views
        text = "".join(piece.text for piece in pieces)
        return Answer(prepared.number, text, pieces[-1].finish_reason, own)

    def step(self) -> Iterator[Answer]:
        """One more token of every running answer; yield those that end."""
        for response in self.generator.next_generated():
            answer = self.running[response.uid]
            answer.timing.generation_tokens += 1
            ended = response.finish_reason is not None
            if response.finish_reason != "stop":
                answer.detokenizer.add_token(response.token)
            if ended:
                answer.detokenizer.finalize()
            answer.text += answer.stops.feed(answer.detokenizer.last_segment, last=ended)
            if not ended and answer.stops.found:
                self.generator.remove([response.uid])
            if ended or answer.stops.found:
                reason = "stop" if answer.stops.found else response.finish_reason
                yield Answer(answer.number, answer.text, reason, answer.timing)
                del self.running[response.uid]


def _failed(number: int, error: MM1Error) -> Answer:
    return Answer(number, "", "error", error=" ".join(str(error).split()))
