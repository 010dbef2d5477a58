"""The choice of mlx-lm's KV cache that fits the settings and the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mm1_mlx.errors import SamplingError
from mm1_mlx.generation.decoding import require_kv_settings
from mm1_mlx.model.mlx_lm_parts import ArraysCache, KVCache, RotatingKVCache, make_prompt_cache
from mm1_mlx.model.mm1 import MM1

KEPT = 4  # the first positions, which a rotating cache never overwrites, as in mlx-lm


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
    return [_bound(entry, max_kv_size, name) for entry in make_prompt_cache(model.decoder)]


def _bound(entry: Any, max_kv_size: int, name: str) -> Any:
    """Return a layer's cache that grows no further than ``max_kv_size``: one of a fixed size, or a rotating one."""
    if type(entry) is KVCache:
        return RotatingKVCache(max_size=max_kv_size, keep=KEPT)
    if isinstance(entry, ArraysCache | RotatingKVCache):
        return entry
    raise SamplingError(
        f"`max_kv_size` cannot bound this {name} decoder, some layers of which have a {type(entry).__name__}; drop it."
    )


def require_kept(
    max_kv_size: int,
    num_prompt: int,
    num_tokens: int,
    places: Sequence[range],
    *,
    what: str = "visual tokens",
) -> None:
    """Refuse an answer during which some positions of the prompt would be overwritten.

    Args:
        max_kv_size: positions that are kept, of which the oldest is overwritten.
        num_prompt: tokens of the prompt.
        num_tokens: tokens of the longest answer.
        places: the positions that must be kept.
        what: what stands there, for the message.

    Raises:
        SamplingError: one would be lost before the answer ends.
    """
    num_read = num_prompt + num_tokens - 1  # the last token is not read
    lost = range(KEPT, KEPT + num_read - max_kv_size)
    if any(place.start < lost.stop and place.stop > lost.start for place in places if lost):
        raise SamplingError(
            f"`max_kv_size` is {max_kv_size}, but the prompt has {num_prompt} tokens and the answer up to {num_tokens}: "
            f"{what} would be overwritten. Give {num_read}, or lower `max_tokens`."
        )


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
