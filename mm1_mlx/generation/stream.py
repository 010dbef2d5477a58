"""The answer to one prompt, piece by piece. The sampling loop is mlx-lm's; this file adds pictures."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import mlx.core as mx

from mm1_mlx.arguments import require_type
from mm1_mlx.errors import SamplingError
from mm1_mlx.generation.answering import Answering, Piece
from mm1_mlx.generation.caches import kv_group_size, require_kept
from mm1_mlx.generation.decoding import Decoding
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.request import Request
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import Prompt
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import MAX_TOKENS, PREFILL_STEP_SIZE, Sampling, Template
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import embed


def stream_generate(
    model: MM1,
    processor: Processor,
    prompt: Prompt | Inputs,
    *,
    images: Sequence[Source] = (),
    system: str | None = None,
    template: Template = "chat",
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
) -> Generator[Piece, None, None]:
    """Yield the answer to a prompt as it is written.

    Args:
        model: from ``load``.
        processor: from ``load``.
        prompt: a question or chat messages, with ``<image>`` in the places of pictures, or else the pictures come
            first; or inputs that ``processor`` has already prepared.
        images: paths, bytes, ``data:`` URLs, Pillow pictures or uint8 arrays, in reading order.
        system: a system message.
        template: "chat", or "plain" for a prompt that is continued as it is.
        max_tokens: the longest answer, in tokens; the context may end it sooner.
        sampling: how tokens are chosen; greedily by default.
        max_kv_size: keep only this many positions in the KV cache, of which the oldest is overwritten.
        kv_bits: number of bits to pack the KV cache to.
        prefill_step_size: prompt tokens processed at once.
        vision_batch_size: views encoded together; by default as many as free memory allows.
        vision_cache: where visual tokens are kept, so that a picture is encoded only once.
        prefix: a KV cache to continue from. What the prompt shares with its content is not read again; afterwards it
            holds the prompt and the answer. It has its own kv_bits.
        stop: texts that end the answer; they are not part of it.
        num_low_resolution: encode this many of the first pictures as one view each.

    Raises:
        MM1Error: a picture, the prompt or a setting is not usable; it is raised when the first piece is asked for.
    """
    decoding = Decoding(
        max_tokens=max_tokens,
        sampling=Sampling() if sampling is None else sampling,
        max_kv_size=max_kv_size,
        kv_bits=kv_bits,
        prefill_step_size=prefill_step_size,
        vision_batch_size=vision_batch_size,
    )
    request = Request(prompt, images, system, template, stop, num_low_resolution)
    yield from stream_answer(model, processor, request, decoding, vision_cache=vision_cache, prefix=prefix)


def generate(
    model: MM1,
    processor: Processor,
    prompt: Prompt | Inputs,
    *,
    images: Sequence[Source] = (),
    system: str | None = None,
    template: Template = "chat",
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
) -> str:
    """Return the whole answer to a prompt. Arguments and errors are those of ``stream_generate``."""
    pieces = stream_generate(
        model,
        processor,
        prompt,
        images=images,
        system=system,
        template=template,
        max_tokens=max_tokens,
        sampling=sampling,
        max_kv_size=max_kv_size,
        kv_bits=kv_bits,
        prefill_step_size=prefill_step_size,
        vision_batch_size=vision_batch_size,
        vision_cache=vision_cache,
        prefix=prefix,
        stop=stop,
        num_low_resolution=num_low_resolution,
    )
    return "".join(piece.text for piece in pieces)


def stream_answer(
    model: MM1,
    processor: Processor,
    request: Request,
    decoding: Decoding,
    *,
    vision_cache: VisionCache | None = None,
    prefix: Prefix | None = None,
) -> Generator[Piece, None, None]:
    """Yield the answer to a request as it is written; arguments and errors are those of ``stream_generate``."""
    require_type("vision_cache", vision_cache, VisionCache | None, SamplingError)
    require_type("prefix", prefix, Prefix | None, SamplingError)
    if prefix is None:
        prefix = Prefix(model, kv_bits=decoding.kv_bits, max_kv_size=decoding.max_kv_size)
    elif (decoding.max_kv_size, decoding.kv_bits) != (None, None):
        raise SamplingError("a prefix has its own KV cache: it excludes `max_kv_size` and `kv_bits`.")
    require_usable(model, decoding, prefix)
    mx.reset_peak_memory()
    if decoding.sampling.seed is not None:
        mx.random.seed(decoding.sampling.seed)
    answering = Answering(request, processor, decoding.stop)
    yield from answer_alone(model, processor.tokenizer, answering, decoding, prefix, vision_cache)


def require_usable(model: MM1, decoding: Decoding, prefix: Prefix) -> None:
    """Refuse settings that do not fit the model, before anything is read.

    Raises:
        SamplingError: a setting does not fit; the message names it.
    """
    decoding.make_sampler(model)
    kv_group_size(model, prefix.kv_bits)


def answer_alone(
    model: MM1,
    tokenizer: Any,
    answering: Answering,
    decoding: Decoding,
    prefix: Prefix,
    vision_cache: VisionCache | None,
) -> Generator[Piece, None, None]:
    """Read the part of a prompt that ``prefix`` does not hold, and yield the answer; both are added to ``prefix``."""
    from mlx_lm.generate import stream_generate as stream_text

    content, inputs, timing = list(answering.content), answering.inputs, answering.timing
    num_tokens = decoding.limit_tokens(model, len(content))
    if prefix.max_kv_size is not None:
        require_kept(prefix.max_kv_size, len(content), num_tokens, inputs.image_places)
    start = prefix.keep_shared(content)
    timing.prefilled_tokens += len(content) - start
    embeddings = embed(
        model,
        inputs,
        timing,
        vision_cache=vision_cache,
        vision_batch_size=decoding.vision_batch_size,
        start=start,
    )
    responses = stream_text(
        model,
        tokenizer,
        inputs.input_ids[start:],
        max_tokens=num_tokens,
        sampler=decoding.make_sampler(model),
        prompt_cache=prefix.cache,
        kv_bits=prefix.kv_bits,
        kv_group_size=kv_group_size(model, prefix.kv_bits),
        quantized_kv_start=0,
        prefill_step_size=decoding.prefill_step_size,
        input_embeddings=embeddings,
    )
    try:
        with closing(responses):
            with timing.phase("prefill"):
                response: Any = next(responses)
            while True:
                content.append(response.token)
                piece = answering.add(response.text, response.token, response.finish_reason)
                yield piece
                if piece.finish_reason is not None:
                    return
                response = next(responses)
    finally:  # even if the answer is cut short, the cache holds what it has read
        prefix.extend(content, inputs)
