"""Check that weights are those that a model expects, and that all of them are finite numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx

from mm1_mlx.arrays import to_list
from mm1_mlx.errors import CheckpointError


def check_weights(
    expected: dict[str, mx.array], weights: dict[str, mx.array], folder: Path, *, again: str
) -> None:
    """Refuse missing, extra and misshapen tensors by name; ``again`` is the advice that ends the message.

    Raises:
        CheckpointError: ``weights`` do not have the names, shapes and kinds of type of ``expected``.
    """
    missing = [key for key in expected if key not in weights]
    if missing:
        raise CheckpointError(f"{folder} lacks {list_some(missing)}; {again}")
    extra = [key for key in weights if key not in expected]
    if extra:
        raise CheckpointError(
            f"{folder} holds {list_some(extra)}, which the configuration has no place for; {again}"
        )
    for key, value in expected.items():
        if mx.issubdtype(weights[key].dtype, mx.floating) != mx.issubdtype(value.dtype, mx.floating):
            raise CheckpointError(
                f"{folder}: {key} holds {weights[key].dtype}, expected {value.dtype}; {again}"
            )
        if weights[key].shape != value.shape:
            raise CheckpointError(f"{folder}: {key} is {weights[key].shape}, expected {value.shape}; {again}")


def evaluate_weights(
    weights: dict[str, mx.array], dtype: mx.Dtype | None, folder: Path, at_once: int = 32
) -> None:
    """Read tensors from disk, a few at a time, and convert those that hold floats to ``dtype`` where it is given.

    Raises:
        CheckpointError: some hold NaN or infinity.
    """
    keys = [key for key, value in weights.items() if mx.issubdtype(value.dtype, mx.floating)]
    bad = []
    for start in range(0, len(keys), at_once):
        chunk = keys[start : start + at_once]
        finite = mx.stack([mx.all(mx.isfinite(weights[key])) for key in chunk])
        if dtype is not None:
            weights |= {key: weights[key].astype(dtype) for key in chunk}
        mx.eval(finite, [weights[key] for key in chunk])
        bad += [key for key, good in zip(chunk, to_list(finite), strict=True) if not good]
    mx.eval(weights)
    if bad:
        raise CheckpointError(f"{folder} holds NaN or infinity in {list_some(bad)}; the weights are damaged.")


def list_some(keys: Iterable[str], shown: int = 3) -> str:
    """Return the first few of ``keys``, sorted and joined by commas, and how many more there are."""
    keys = sorted(keys)
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more
