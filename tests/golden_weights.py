"""Golden files, and their weights under our names."""

from pathlib import Path

import mlx.core as mx

GOLDEN = Path(__file__).parent / "golden"


def load_golden(*parts):
    """Load the arrays of one golden safetensors file."""
    return load_arrays(GOLDEN.joinpath(*parts))


def load_arrays(path) -> dict[str, mx.array]:
    """Load the arrays of a safetensors file by name."""
    arrays = mx.load(str(path))
    assert isinstance(arrays, dict)
    return arrays


def to_nhwc(x):
    return x.transpose(0, 2, 3, 1)


def rename_weights(weights, keys):
    """Rename weights of a published layout as ours, by its key table ``keys``."""
    keys.check(weights, "the golden file")
    moves = [(keys.moves[key], value) for key, value in weights.items() if not keys.drops(key)]
    return [pair for m, value in moves for pair in zip(m.targets, m.transform.there(value), strict=True)]
