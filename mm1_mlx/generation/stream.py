"""Answer one prompt, piece by piece. The sampling loop is mlx-lm's; the pictures are ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mm1_mlx.errors import SamplingError
from mm1_mlx.generation.caches import kv_group_size, make_cache
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.stops import Stops
from mm1_mlx.generation.timing import Timing
from mm1_mlx.inputs.content import content_of
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import Prompt
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import MAX_TOKENS, PREFILL_STEP_SIZE, Sampling
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import embed


@dataclass(frozen=True)
class Piece:
    """The next bit of text; the last one has a ``finish_reason``: "stop" or "length"."""

    text: str
    token: int
    timing: Timing  # as far as known; complete on the last piece
    finish_reason: str | None


def stream_generate(
    model: MM1,
    processor: Processor,
    prompt: Prompt | Inputs,
    *,
    images: Sequence[Source] = (),
    system: str | None = None,
    template: str = "chat",
    max_tokens: int = MAX_TOKENS,
    sampling: Sampling | None = None,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    prefill_step_size: int = PREFILL_STEP_SIZE,
    vision_batch_size: int | None = None,
    vision_cache: VisionCache | None = None,
    prefix: Prefix | None = None,
    stop: Sequence[str] = (),
    num_low_resolution: int = 0,
) -> Iterator[Piece]:
    """Yield the answer as it comes.

    Args:
        model: from ``load``.
        processor: from ``load``.
        prompt: a question or chat messages, ``<image>`` where a picture goes, else pictures come first; or what
            ``processor`` made of them already.
        images: paths, bytes, ``data:`` URLs, Pillow pictures or uint8 arrays, in reading order.
        system: a system message.
        template: "chat", or "plain" for a prompt that is to be continued as it stands.
        max_tokens: the longest answer, in tokens; the context may end it sooner.
        sampling: how tokens are chosen; greedy by default.
        max_kv_size: keep only that many positions, the oldest overwritten.
        kv_bits: pack the KV cache.
        prefill_step_size: prompt tokens processed at once.
        vision_batch_size: views encoded together; by default what free memory allows.
        vision_cache: where visual tokens of pictures seen before are kept.
        prefix: a KV cache to go on from; what the prompt shares with its content is not read again, and
            prompt and answer are its content afterwards. It has its own kv_bits.
        stop: texts that end the answer, which holds none of them.
        num_low_resolution: the first that many pictures have one view each.

    Raises:
        MM1Error: a picture, the prompt or a setting is not usable. It comes when the first piece is asked for.
    """
    sampling = sampling or Sampling()
    require_at_least_1(max_tokens, "--max-tokens")
    require_at_least_1(prefill_step_size, "--prefill-step-size")
    sampler = make_token_sampler(sampling, model)
    if prefix is None:
        cache = make_cache(model, max_kv_size=max_kv_size, kv_bits=kv_bits)
    elif (max_kv_size, kv_bits) != (None, None):
        raise SamplingError("a prefix has its own KV cache: it excludes max_kv_size and kv_bits.")
    else:
        kv_bits = prefix.kv_bits
    group_size = kv_group_size(model, kv_bits)

    start, timing = time.perf_counter(), Timing()
    mx.reset_peak_memory()
    with timing.phase("preprocess"):
        inputs = prompt
        if not isinstance(prompt, Inputs):
            inputs = processor(
                prompt, images, system=system, template=template, num_low_resolution=num_low_resolution
            )
    timing.prompt_tokens, timing.visual_tokens = len(inputs.input_ids), inputs.num_visual_tokens
    max_tokens = room_for(inputs, model, max_tokens)
    content, start_at = [], 0
    if prefix is not None:
        content = content_of(inputs, model.config.image_token_id)
        start_at, cache = prefix.keep_shared(content), prefix.cache
    timing.prefilled_tokens = timing.prompt_tokens - start_at
    embeddings = embed(
        model,
        inputs,
        timing,
        vision_cache=vision_cache,
        vision_batch_size=vision_batch_size,
        start=start_at,
    )
    if sampling.seed is not None:
        mx.random.seed(sampling.seed)

    from mlx_lm.generate import stream_generate as stream_text

    began = time.perf_counter()
    first = None
    stops = Stops(stop)
    try:
        for response in stream_text(
            model,
            processor.tokenizer,
            inputs.input_ids[start_at:],
            max_tokens=max_tokens,
            sampler=sampler,
            prompt_cache=cache,
            kv_bits=kv_bits,
            kv_group_size=group_size,
            quantized_kv_start=0,
            prefill_step_size=prefill_step_size,
            input_embeddings=embeddings,
        ):
            now = time.perf_counter()
            if first is None:
                first = now
                timing.prefill += now - began
                timing.first_token = now - start
            timing.decode = now - first
            timing.generation_tokens = response.generation_tokens
            timing.peak_memory = mx.get_peak_memory()
            content.append(response.token)
            text = stops.feed(response.text, last=response.finish_reason is not None)
            yield Piece(text, response.token, timing, "stop" if stops.found else response.finish_reason)
            if stops.found:
                return
    finally:
        if prefix is not None:  # also where the answer is cut short: the cache holds what it read
            prefix.extend(content, inputs)


def generate(model: MM1, processor: Processor, prompt: Prompt | Inputs, **options) -> str:
    """The whole answer. Options and errors are those of ``stream_generate``."""
    return "".join(piece.text for piece in stream_generate(model, processor, prompt, **options))


def room_for(inputs: Inputs, model: MM1, max_tokens: int) -> int:
    """``max_tokens``, or as many as the context leaves after the prompt."""
    context = model.config.text_config.max_positions
    return max_tokens if context is None else min(max_tokens, context - len(inputs.input_ids))


def require_at_least_1(value: int, flag: str) -> None:
    if value < 1:
        raise SamplingError(f"{flag} is {value}, expected at least 1.")


def make_token_sampler(sampling: Sampling, model: MM1) -> Callable[[mx.array], mx.array]:
    """mlx-lm's sampler with these settings.

    Raises:
        SamplingError: ``top_k`` is not below the vocabulary.
    """
    vocabulary = model.config.text_config.vocab_size
    if sampling.top_k >= vocabulary:
        raise SamplingError(
            f"--top-k is {sampling.top_k}, expected less than the vocabulary of {vocabulary}."
        )
    from mlx_lm.sample_utils import make_sampler

    return make_sampler(sampling.temp, sampling.top_p, sampling.min_p, top_k=sampling.top_k)
