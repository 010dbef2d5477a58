"""The choice of mlx-lm's KV cache that fits the settings and the decoder."""

from __future__ import annotations

from typing import Any

from mm1_mlx.errors import SamplingError
from mm1_mlx.generation.decoding import require_kv_settings
from mm1_mlx.model.mlx_lm_parts import RotatingKVCache, make_prompt_cache
from mm1_mlx.model.mm1 import MM1


def make_cache(model: MM1, *, max_kv_size: int | None = None, kv_bits: int | None = None) -> list[Any]:
    """Make an empty KV cache for one sequence.

    Args:
        model: from ``load``.
        max_kv_size: keep only this many positions, of which the oldest is overwritten.
        kv_bits: number of bits to pack the cache to.

    Raises:
        SamplingError: a setting is out of range, or mlx-lm has no such cache for this decoder.
    """
    require_kv_settings(max_kv_size, kv_bits)
    name = model.config.text_config.model_type
    if max_kv_size is None:
        cache = make_prompt_cache(model.decoder)
        if kv_bits is not None and any(isinstance(c, RotatingKVCache) for c in cache):
            raise SamplingError(
                f"`kv_bits` does not work with the sliding window of this {name} decoder; drop it."
            )
        return cache
    if hasattr(model.decoder, "make_cache"):
        raise SamplingError(
            f"`max_kv_size` has no effect on a {name} decoder, which makes its own cache; drop it."
        )
    return make_prompt_cache(model.decoder, max_kv_size=max_kv_size)


def kv_group_size(model: MM1, kv_bits: int | None) -> int:
    """Return the largest size for groups of packed numbers that divides the width of a head.

    Raises:
        SamplingError: no size of mlx-lm's divides it.
    """
    if kv_bits is None:
        return 64
    values = model.config.text_config.to_dict()
    heads = values.get("num_attention_heads") or 1
    head_dims = values.get("head_dims") or values.get("head_dim") or values["hidden_size"] // heads
    for group_size in (64, 32):
        if head_dims % group_size == 0:
            return group_size
    raise SamplingError(
        f"`kv_bits` needs heads of a multiple of 32 dimensions; this decoder's have {head_dims}."
    )
