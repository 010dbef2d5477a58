"""KV caches: which of mlx-lm's fits the settings, and which pairs of settings none fits."""

from __future__ import annotations

from typing import Any

from mm1_mlx.errors import SamplingError
from mm1_mlx.model.mlx_lm_parts import RotatingKVCache, make_prompt_cache
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import BITS

SMALLEST_ROTATING_CACHE = 8  # mlx-lm keeps the first 4 tokens and needs room to turn


def make_cache(model: MM1, *, max_kv_size: int | None = None, kv_bits: int | None = None) -> list[Any]:
    """An empty cache for one sequence.

    Raises:
        SamplingError: a setting is out of range, or mlx-lm has no cache for this pair or this decoder.
    """
    if kv_bits is not None and kv_bits not in BITS:
        raise SamplingError(f"--kv-bits is {kv_bits}, expected one of {', '.join(map(str, BITS))}.")
    name = model.config.text_config.model_type
    if max_kv_size is None:
        cache = make_prompt_cache(model.decoder)
        if kv_bits is not None and any(isinstance(c, RotatingKVCache) for c in cache):
            raise SamplingError(
                f"--kv-bits does not work with the sliding window of this {name} decoder; drop it."
            )
        return cache
    if max_kv_size < SMALLEST_ROTATING_CACHE:
        raise SamplingError(
            f"--max-kv-size is {max_kv_size}, expected at least {SMALLEST_ROTATING_CACHE} tokens."
        )
    if kv_bits is not None:
        raise SamplingError(
            "--kv-bits and --max-kv-size exclude each other: mlx-lm's rotating cache has no bits."
        )
    if hasattr(model.decoder, "make_cache"):
        raise SamplingError(
            f"--max-kv-size has no effect on a {name} decoder, which makes its own cache; drop it."
        )
    return make_prompt_cache(model.decoder, max_kv_size=max_kv_size)


def kv_group_size(model: MM1, kv_bits: int | None) -> int:
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
