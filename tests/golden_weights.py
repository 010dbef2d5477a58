"""Golden files, and their weights under our names."""

from pathlib import Path

import mlx.core as mx

GOLDEN = Path(__file__).parent / "golden"


def golden(*parts):
    """The arrays of one golden safetensors file."""
    return mx.load(str(GOLDEN.joinpath(*parts)))


def nhwc(x):
    return x.transpose(0, 2, 3, 1)


def renamed(weights, keys):
    """Weights of a published layout as ours, by ``keys``, its key table."""
    keys.check(weights, "the golden file")
    moves = [(keys.moves[key], value) for key, value in weights.items() if not keys.drops(key)]
    return [pair for m, value in moves for pair in zip(m.targets, m.transform.there(value), strict=True)]
