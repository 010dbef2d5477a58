"""Damage done to files: what the tests of this folder share.

``MM1_FUZZ=5`` makes them run for about five minutes in place of seconds.
"""

import os
from collections.abc import Callable
from random import Random

SECONDS = 15  # about what all tests of this folder take without the variable
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def examples(default: int) -> int:
    """Return how many examples a test tries: ``default``, or as many more as ``MM1_FUZZ`` minutes allow."""
    minutes = float(os.environ.get("MM1_FUZZ") or 0)
    return max(default, round(default * minutes * 60 / SECONDS))


def mutate(data: bytes, rng: Random) -> bytes:
    """Return ``data`` with one to four kinds of damage, decided by ``rng`` alone."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(DAMAGES)(data, rng)
    return data


def _flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut_short(data: bytes, rng: Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _write_extreme(data: bytes, rng: Random) -> bytes:
    """Put an extreme number where a length, a size or an offset may stand."""
    width = rng.choice((1, 2, 4))
    at = rng.randint(0, max(len(data) - width, 0))
    number = rng.choice(EXTREMES) & (1 << 8 * width) - 1
    return data[:at] + number.to_bytes(width, rng.choice(("big", "little"))) + data[at + width :]


def _swap(data: bytes, rng: Random) -> bytes:
    """Exchange two neighbouring stretches, such as two chunks or lines."""
    first, middle, last = sorted(rng.randint(0, len(data)) for _ in range(3))
    return data[:first] + data[middle:last] + data[first:middle] + data[last:]


def _repeat(data: bytes, rng: Random) -> bytes:
    first, last = sorted(rng.randint(0, len(data)) for _ in range(2))
    return data[:last] + data[first:]


def _leave_out(data: bytes, rng: Random) -> bytes:
    first, last = sorted(rng.randint(0, len(data)) for _ in range(2))
    return data[:first] + data[last:]


def _insert(data: bytes, rng: Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 40)) + data[at:]


DAMAGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(_flip_bits, _cut_short, _write_extreme, _write_extreme),
    *(_swap, _repeat, _leave_out, _insert),
)
