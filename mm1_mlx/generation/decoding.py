"""The settings of how answers are written: their length, the choice of tokens, the KV cache and batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

from mm1_mlx.arguments import require_type, require_types
from mm1_mlx.errors import SamplingError
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import BITS, MAX_TOKENS, PREFILL_STEP_SIZE, Sampling

SMALLEST_ROTATING_CACHE = 8  # tokens; mlx-lm always keeps the first 4, and needs room for others


@dataclass(frozen=True)
class Decoding:
    """The settings of an answer, or of all answers that are written together.

    Raises:
        SamplingError: a value is out of range, or two of them exclude each other.
    """

    max_tokens: int = MAX_TOKENS  # the longest answer, in tokens; the context may end it sooner
    sampling: Sampling = field(default_factory=Sampling)  # how tokens are chosen; greedily by default
    stop: tuple[str, ...] = ()  # texts that end the answer; they are not part of it
    max_kv_size: int | None = None  # positions to keep in the KV cache, dropping the oldest; None means all
    kv_bits: int | None = None  # bits of a packed KV cache; None means not packed
    prefill_step_size: int = PREFILL_STEP_SIZE  # prompt tokens processed at once
    vision_batch_size: int | None = None  # views encoded together; None means as many as free memory allows

    def __post_init__(self) -> None:
        require_types(self, SamplingError)
        require_at_least_1("max_tokens", self.max_tokens)
        require_at_least_1("prefill_step_size", self.prefill_step_size)
        if self.vision_batch_size is not None:
            require_at_least_1("vision_batch_size", self.vision_batch_size)
        require_kv_settings(self.max_kv_size, self.kv_bits)

    def limit_tokens(self, model: MM1, num_prompt: int) -> int:
        """Return ``max_tokens``, or fewer if the context has less room after a prompt of ``num_prompt`` tokens."""
        context = model.config.text_config.max_positions
        return self.max_tokens if context is None else min(self.max_tokens, context - num_prompt)

    def make_sampler(self, model: MM1) -> Callable[[mx.array], mx.array]:
        """Make mlx-lm's sampler, which chooses tokens from their logits.

        Raises:
            SamplingError: ``top_k`` is not smaller than the vocabulary.
        """
        sampling, vocabulary = self.sampling, model.config.text_config.vocab_size
        if sampling.top_k >= vocabulary:
            raise SamplingError(
                f"`top_k` is {sampling.top_k}, expected less than the vocabulary of {vocabulary}."
            )
        from mlx_lm.sample_utils import make_sampler

        return make_sampler(sampling.temp, sampling.top_p, sampling.min_p, top_k=sampling.top_k)


def require_at_least_1(name: str, value: int) -> None:
    """Refuse a setting that is no whole number or smaller than 1."""
    require_type(name, value, int, SamplingError)
    if value < 1:
        raise SamplingError(f"`{name}` is {value}, expected at least 1.")


def require_kv_settings(max_kv_size: int | None, kv_bits: int | None) -> None:
    """Refuse settings that none of mlx-lm's KV caches supports."""
    for name, value in (("max_kv_size", max_kv_size), ("kv_bits", kv_bits)):
        require_type(name, value, int | None, SamplingError)
    if kv_bits is not None and kv_bits not in BITS:
        raise SamplingError(f"`kv_bits` is {kv_bits}, expected one of {', '.join(map(str, BITS))}.")
    if max_kv_size is None:
        return
    if max_kv_size < SMALLEST_ROTATING_CACHE:
        raise SamplingError(
            f"`max_kv_size` is {max_kv_size}, expected at least {SMALLEST_ROTATING_CACHE} tokens."
        )
    if kv_bits is not None:
        raise SamplingError(
            "`kv_bits` and `max_kv_size` exclude each other: mlx-lm's rotating cache has no bits."
        )
