"""Answer one prompt, piece by piece. The sampling loop is mlx-lm's; the pictures are ours."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.errors import SamplingError
from mm1_mlx.generation.caches import make_cache
from mm1_mlx.generation.prefix import Prefix, content_of
from mm1_mlx.generation.stops import Stops
from mm1_mlx.generation.timing import Timing
from mm1_mlx.generation.vision_cache import VisionCache, entry_key
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.processor import Inputs, Processor
from mm1_mlx.inputs.prompt import Prompt
from mm1_mlx.model.mm1 import MM1, uniform_batches
from mm1_mlx.settings import MAX_TOKENS, PREFILL_STEP_SIZE, Sampling

VISION_BATCH_SIZE = 16  # views encoded together; memory is freed between


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
    prompt: Prompt,
    *,
    images: Sequence[Source] = (),
    system: str | None = None,
    template: str = "chat",
    max_tokens: int = MAX_TOKENS,
    sampling: Sampling | None = None,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    prefill_step_size: int = PREFILL_STEP_SIZE,
    vision_cache: VisionCache | None = None,
    prefix: Prefix | None = None,
    stop: Sequence[str] = (),
    num_low_resolution: int = 0,
) -> Iterator[Piece]:
    """Yield the answer as it comes.

    Args:
        model: from ``load``.
        processor: from ``load``.
        prompt: a question or chat messages; ``<image>`` where a picture goes, else pictures come first.
        images: paths, bytes, ``data:`` URLs, Pillow pictures or uint8 arrays, in reading order.
        system: a system message.
        template: "chat", or "plain" for a prompt that is to be continued as it stands.
        max_tokens: the longest answer, in tokens; the context may end it sooner.
        sampling: how tokens are chosen; greedy by default.
        max_kv_size: keep only that many positions, the oldest overwritten.
        kv_bits: pack the KV cache.
        prefill_step_size: prompt tokens processed at once.
        vision_cache: where visual tokens of pictures seen before are kept.
        prefix: a KV cache to go on from; what the prompt shares with its content is not read again, and
            prompt and answer are its content afterwards. It sets the cache: no max_kv_size or kv_bits.
        stop: texts that end the answer, which holds none of them.
        num_low_resolution: the first that many pictures have one view each.

    Raises:
        MM1Error: a picture, the prompt or a setting is not usable. It comes when the first piece is asked for.
    """
    sampling = sampling or Sampling()
    _require_at_least_1(max_tokens, "--max-tokens")
    _require_at_least_1(prefill_step_size, "--prefill-step-size")
    _require_top_k(sampling, model)
    if prefix is None:
        cache = make_cache(model, max_kv_size=max_kv_size, kv_bits=kv_bits)
    elif (max_kv_size, kv_bits) != (None, None):
        raise SamplingError("a prefix has its own KV cache: it excludes --max-kv-size and --kv-bits.")
    group_size = _kv_group_size(model, kv_bits)

    start, timing = time.perf_counter(), Timing()
    mx.reset_peak_memory()
    with timing.phase("preprocess"):
        inputs = processor(
            prompt, images, system=system, template=template, num_low_resolution=num_low_resolution
        )
    timing.prompt_tokens, timing.visual_tokens = len(inputs.input_ids), inputs.num_visual_tokens
    context = model.config.text_config.max_positions
    if context is not None:
        max_tokens = min(max_tokens, context - timing.prompt_tokens)
    content, start_at = [], 0
    if prefix is not None:
        content = content_of(inputs, model.config.image_token_id)
        start_at, cache = prefix.keep_shared(content), prefix.cache
    timing.prefilled_tokens = timing.prompt_tokens - start_at
    embeddings = embed(model, inputs, timing, vision_cache=vision_cache, start=start_at)
    if sampling.seed is not None:
        mx.random.seed(sampling.seed)

    from mlx_lm.generate import stream_generate as stream_text
    from mlx_lm.sample_utils import make_sampler

    began = time.perf_counter()
    first = None
    stops = Stops(stop)
    try:
        for response in stream_text(
            model,
            processor.tokenizer,
            inputs.input_ids[start_at:],
            max_tokens=max_tokens,
            sampler=make_sampler(sampling.temp, sampling.top_p, sampling.min_p, top_k=sampling.top_k),
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
            prefix.extend(content)


def generate(model: MM1, processor: Processor, prompt: Prompt, **options) -> str:
    """The whole answer. Options and errors are those of ``stream_generate``."""
    return "".join(piece.text for piece in stream_generate(model, processor, prompt, **options))


def embed(
    model: MM1,
    inputs: Inputs,
    timing: Timing | None = None,
    *,
    vision_cache: VisionCache | None = None,
    start: int = 0,
) -> Float[mx.array, "L D"]:
    """What the decoder reads of one prompt from position ``start`` on, evaluated.

    Only pictures that reach past ``start`` and that ``vision_cache`` does not know are encoded.
    """
    timing = timing or Timing()
    wanted = [number for number, places in enumerate(inputs.image_places) if places.stop > start]
    visual_tokens = tokens_of(model, inputs, wanted, timing, vision_cache)
    ids = inputs.input_ids[start:]
    with timing.phase("prefill"):
        if visual_tokens is not None:  # a picture that straddles the start gives its last tokens
            used = mx.sum(ids == model.config.image_token_id).item()
            visual_tokens = visual_tokens[len(visual_tokens) - used :]
        embeddings = model.embed_inputs(ids, visual_tokens=visual_tokens)
        mx.eval(embeddings)
    return embeddings


def tokens_of(
    model: MM1, inputs: Inputs, wanted: Sequence[int], timing: Timing, vision_cache: VisionCache | None = None
) -> Float[mx.array, "K D"] | None:
    """The arranged visual tokens of the pictures numbered ``wanted``, or None where there is none."""
    found: dict[int, mx.array | None] = {}
    if vision_cache is not None:
        keys = {number: entry_key(inputs.digests[number], model) for number in wanted}
        found = {number: vision_cache.get(key) for number, key in keys.items()}
    missing = [number for number in wanted if found.get(number) is None]
    pixels = _pixels_of(inputs, missing)
    timing.encoded_views += len(pixels)
    made = encode_in_batches(model, pixels, timing)
    begin = 0
    for number in missing:
        layout = inputs.layouts[number]
        tokens = made[begin : begin + layout.num_made]
        begin += layout.num_made
        found[number] = tokens if layout.order is None else model.arrange(tokens, mx.array(layout.order))
        if vision_cache is not None:
            mx.eval(found[number])
            vision_cache.put(keys[number], found[number])
    return mx.concatenate([found[number] for number in wanted]) if wanted else None


def _pixels_of(inputs: Inputs, numbers: Sequence[int]) -> mx.array | list[mx.array]:
    """The views of some pictures; those of all are not copied."""
    if len(numbers) == len(inputs.num_views):
        return inputs.pixel_values
    stops = list(accumulate(inputs.num_views))
    stretches = [inputs.pixel_values[stops[n] - inputs.num_views[n] : stops[n]] for n in numbers]
    if isinstance(inputs.pixel_values, list):
        return [view for stretch in stretches for view in stretch]
    return mx.concatenate(stretches) if stretches else inputs.pixel_values[:0]


def encode_in_batches(
    model: MM1, pixel_values: Float[mx.array, "N H W 3"] | list[mx.array], timing: Timing
) -> Float[mx.array, "K D"] | None:
    """Visual tokens of all views, or None where there is none.

    A few views are encoded at a time and evaluated, so that memory does not grow with their number.
    """
    done = []
    views_at_once = model.config.connector_config.views_at_once
    for pixels in uniform_batches(pixel_values, views_at_once, VISION_BATCH_SIZE):
        with timing.phase("encoder"):
            patches = model.image_encoder(pixels)
            mx.eval(patches)
        with timing.phase("connector"):
            done.append(model.connector(patches, model.image_encoder.grid(pixels)).flatten(0, 1))
            mx.eval(done[-1])
    return mx.concatenate(done) if done else None


def _require_at_least_1(value: int, flag: str) -> None:
    if value < 1:
        raise SamplingError(f"{flag} is {value}, expected at least 1.")


def _require_top_k(sampling: Sampling, model: MM1) -> None:
    vocabulary = model.config.text_config.vocab_size
    if sampling.top_k >= vocabulary:
        raise SamplingError(
            f"--top-k is {sampling.top_k}, expected less than the vocabulary of {vocabulary}."
        )


def _kv_group_size(model: MM1, kv_bits: int | None) -> int:
    """The largest group that divides the width of a head."""
    if kv_bits is None:
        return 64
    values = model.config.text_config.to_dict()
    heads = values.get("num_attention_heads") or 1
    head_dims = values.get("head_dims") or values.get("head_dim") or values["hidden_size"] // heads
    for group_size in (64, 32):
        if head_dims % group_size == 0:
            return group_size
    raise SamplingError(
        f"--kv-bits needs heads of a multiple of 32 dimensions; this decoder's have {head_dims}."
    )
