"""Unpack the blocks in which GGUF files store numbers, to float32 and without further rounding.

A block holds 32 or 256 numbers of one row: small integers, and one or more scales. ``mx.load`` reads such files too, but
rounds most of these kinds to float16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Bytes = np.ndarray  # of uint8, one row for each block
Numbers = np.ndarray  # of float32, one row for each block


class BlockKind(NamedTuple):
    """How one kind of tensor is stored."""

    name: str  # as llama.cpp calls it
    length: int  # numbers in a block
    nbytes: int  # bytes of a block
    unpack: Callable[[Bytes], Numbers] | None  # None where the numbers are stored as they are


def _half(blocks: Bytes, start: int) -> Numbers:
    """Return the float16 number at byte ``start`` of each block."""
    return blocks[:, start : start + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> np.ndarray:
    """Return the lower halves of all bytes, then the upper halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(words: Bytes) -> np.ndarray:
    """Return the 32 bits of each block's word, each as 0 or 16."""
    return np.unpackbits(words, axis=1, bitorder="little") << 4


def _unpack_q4_0(blocks: Bytes) -> Numbers:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _unpack_q4_1(blocks: Bytes) -> Numbers:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)


def _unpack_q5_0(blocks: Bytes) -> Numbers:
    numbers = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks, 0) * (numbers.astype(np.float32) - 16)


def _unpack_q5_1(blocks: Bytes) -> Numbers:
    return _half(blocks, 0) * (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])) + _half(blocks, 2)


def _unpack_q8_0(blocks: Bytes) -> Numbers:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8)


def _scales_of_k(packed: Bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return eight scales and eight offsets of 6 bits each, from 12 bytes."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    offsets = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)
    return scales, offsets


def _scale_k(blocks: Bytes, numbers: np.ndarray) -> Numbers:
    """Return eight groups of 32 numbers, each times its scale and less its offset."""
    scales, offsets = _scales_of_k(blocks[:, 4:16])
    scale, offset = _half(blocks, 0) * scales, _half(blocks, 2) * offsets
    return (scale[..., None] * numbers - offset[..., None]).reshape(-1, 256)


def _unpack_q4_k(blocks: Bytes) -> Numbers:
    packed = blocks[:, 16:].reshape(-1, 4, 1, 32)
    return _scale_k(blocks, np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32))


def _unpack_q5_k(blocks: Bytes) -> Numbers:
    packed = blocks[:, 48:].reshape(-1, 4, 1, 32)
    low = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)
    high = blocks[:, 16:48].reshape(-1, 1, 32) >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _scale_k(blocks, low | high << 4)


def _unpack_q6_k(blocks: Bytes) -> Numbers:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    numbers = (low | high << 4).astype(np.float32).reshape(-1, 16, 16) - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return (scales[..., None] * numbers).reshape(-1, 256)


KINDS = {  # by the number in the file
    0: BlockKind("F32", 1, 4, None),
    1: BlockKind("F16", 1, 2, None),
    2: BlockKind("Q4_0", 32, 18, _unpack_q4_0),
    3: BlockKind("Q4_1", 32, 20, _unpack_q4_1),
    6: BlockKind("Q5_0", 32, 22, _unpack_q5_0),
    7: BlockKind("Q5_1", 32, 24, _unpack_q5_1),
    8: BlockKind("Q8_0", 32, 34, _unpack_q8_0),
    12: BlockKind("Q4_K", 256, 144, _unpack_q4_k),
    13: BlockKind("Q5_K", 256, 176, _unpack_q5_k),
    14: BlockKind("Q6_K", 256, 210, _unpack_q6_k),
    30: BlockKind("BF16", 1, 2, None),
}
OTHERS = {
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}
