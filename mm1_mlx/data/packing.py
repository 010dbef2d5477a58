"""Pack rows of different length into one sequence, in which each is read as if it were alone.

Source: MM1, "Pre-training Details" (sequences of 4096 tokens, up to 16 pictures each).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Bool, Float, Integer

from mm1_mlx.data.examples import Example
from mm1_mlx.inputs.inputs import PreparedPicture
from mm1_mlx.model.mixture_of_experts import Routing
from mm1_mlx.model.mlx_lm_parts import KVCache, RotatingKVCache, make_prompt_cache
from mm1_mlx.model.mm1 import MM1

PAD_TO = 16  # lengths are multiples of it, so that few shapes occur


@dataclass(frozen=True)
class Packed:
    """One sequence of several rows, one after the other, then padding."""

    names: tuple[str, ...]  # names of the rows
    ids: Integer[mx.array, "L"]
    learned: Bool[mx.array, "L"]  # tokens that count in the loss
    rows: Integer[mx.array, "L"]  # the row that each position belongs to; -1 is padding
    pictures: tuple[PreparedPicture, ...]
    num_learned: int
    num_tokens: int  # without padding

    @property
    def num_places(self) -> int:
        """Positions of the sequence, tokens and padding together."""
        return len(self.ids)

    @property
    def places(self) -> Integer[mx.array, "P"]:
        """Positions whose next token is learned; one at least, so that no array made of them is empty."""
        found = np.flatnonzero(np.array(self.learned)[1:])
        return mx.array((found if len(found) else np.zeros(1)).astype(np.int32))

    @property
    def num_pictures(self) -> int:
        return len(self.pictures)


def pack(examples: Sequence[Example], *, width: int, most: int, apart: bool = True) -> list[Packed]:
    """Put rows into as few sequences as best fit finds, the longest rows first.

    Attention is computed over a whole sequence, although a row needs only its own part. Up to about as many tokens
    as the decoder is wide, that costs little compared with the linears, so a sequence holds at most so many tokens.

    Args:
        examples: rows of any length.
        width: width of the decoder.
        most: limit for the tokens of a sequence. A row longer than a sequence may be gets one of its own.
        apart: keep attention inside each row.
    """
    capacity = min(most, width)
    bins: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(
        examples, key=len, reverse=True
    ):  # a stable sort: rows of equal length keep their order
        fitting = [number for number, left in enumerate(room) if left >= len(example)]
        if fitting:
            best = min(fitting, key=lambda number: room[number])
            bins[best].append(example)
            room[best] -= len(example)
        else:
            bins.append([example])
            room.append(capacity - len(example))
    return [join(rows, apart=apart) for rows in bins]


def join(examples: Sequence[Example], *, pad_to: int = PAD_TO, apart: bool = True) -> Packed:
    """Put rows into one sequence, in order; unless ``apart``, attention treats them as one row."""
    num_tokens = sum(map(len, examples))
    padding = -num_tokens % pad_to
    ids = np.concatenate([*(example.ids for example in examples), np.zeros(padding, np.int32)])
    learned = np.concatenate([*(example.learned for example in examples), np.zeros(padding, bool)])
    numbers = range(len(examples)) if apart else [0] * len(examples)
    rows = np.repeat([*numbers, -1], [*map(len, examples), padding])
    return Packed(
        names=tuple(example.name for example in examples),
        ids=mx.array(ids.astype(np.int32)),
        learned=mx.array(learned),
        rows=mx.array(rows.astype(np.int32)),
        pictures=tuple(picture for example in examples for picture in example.pictures),
        num_learned=int(learned.sum()),
        num_tokens=num_tokens,
    )


def idle_sequence() -> Packed:
    """Return a sequence of padding alone, which a process computes when it has nothing to learn but others have."""
    ids = mx.zeros(PAD_TO, dtype=mx.int32)
    return Packed((), ids, ids != 0, ids - 1, (), num_learned=0, num_tokens=0)


class RowsApart:
    """A stand-in for a layer's KV cache that lets a position attend only to earlier positions of its own row.

    Decoders, ours and mlx-lm's, ask their cache for the mask. RoPE is relative, so rows need no positions of
    their own.
    """

    offset = 0

    def __init__(self, rows: Integer[mx.array, "L"]):
        self._rows = rows

    def make_mask(
        self, length: int, window_size: int | None = None, return_array: bool = False, **_: Any
    ) -> Bool[mx.array, "L L"]:
        """Return the attention mask; ``window_size`` is that of a sliding window, where a layer has one."""
        places = mx.arange(length)
        distance = places[:, None] - places[None]
        seen = (distance >= 0) & (self._rows[:, None] == self._rows[None])
        return seen if window_size is None else seen & (distance < window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return keys and values unchanged; nothing is kept."""
        return keys, values


def can_pack(model: MM1) -> bool:
    """Say whether every layer of the decoder is attention; a layer with a running state would mix rows."""
    return all(type(entry) in (KVCache, RotatingKVCache) for entry in make_prompt_cache(model.decoder))


def row_caches(model: MM1, packed: Packed) -> list[RowsApart]:
    """Return the stand-ins for the decoder's caches, as many as it would make itself."""
    return [RowsApart(packed.rows)] * len(make_prompt_cache(model.decoder))


def logits_of(
    model: MM1,
    packed: Packed,
    embeddings: Float[mx.array, "L D"],
    routings: list[Routing] | None = None,
    places: Integer[mx.array, "P"] | None = None,
) -> Float[mx.array, "Q V"]:
    """Compute the decoder's logits of a packed sequence, at all positions or at ``places``.

    ``routings`` collects what its routers decide.
    """
    cache, ids = row_caches(model, packed), packed.ids[None]
    return model(ids, cache=cache, input_embeddings=embeddings[None], routings=routings, places=places)[0]
