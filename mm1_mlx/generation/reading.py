"""Reading of a prompt into a KV cache, some tokens at a time, without what the cache holds already."""

from __future__ import annotations

import mlx.core as mx

from mm1_mlx.generation.answering import Answering
from mm1_mlx.generation.decoding import Decoding
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import embed


def read(
    model: MM1,
    prefix: Prefix,
    answering: Answering,
    stop: int,
    decoding: Decoding,
    vision_cache: VisionCache | None,
) -> None:
    """Read a prompt into ``prefix``, from the end of their shared beginning to before position ``stop``."""
    inputs, timing = answering.inputs, answering.timing
    start = prefix.keep_shared(answering.content[: stop + 1])
    if start == stop:
        return
    embeddings = embed(
        model,
        inputs,
        timing,
        vision_cache=vision_cache,
        vision_batch_size=decoding.vision_batch_size,
        start=start,
        stop=stop,
    )
    with timing.phase("prefill"):
        for begin in range(start, stop, decoding.prefill_step_size):
            end = min(begin + decoding.prefill_step_size, stop)
            ids, own = inputs.input_ids[begin:end], embeddings[begin - start : end - start]
            model(ids[None], cache=prefix.cache, input_embeddings=own[None])
            mx.eval([entry.state for entry in prefix.cache])
    timing.prefilled_tokens += stop - start
    prefix.extend(answering.content[:stop], inputs)
