"""A safetensors file written one tensor after the other, where all together would not fit into memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlx.core as mx

from mm1_mlx.errors import CheckpointError

NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint64: "U64", mx.uint32: "U32"}


def write_tensors(
    path: Path, forms: Mapping[str, tuple[tuple[int, ...], mx.Dtype]], tensors: Iterable[mx.array]
) -> None:
    """Write tensors as they come; no more than one is held.

    Args:
        path: of the file.
        forms: shape and type of each tensor, by name.
        tensors: in the same order.

    Raises:
        OSError: it cannot be written.
    """
    header, end = {}, 0
    for name, (shape, dtype) in forms.items():
        start, end = end, end + math.prod(shape) * dtype.size
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(memoryview(tensor.reshape(-1).view(mx.uint8)))


def read_tensors(file: Path, *, again: str) -> dict[str, mx.array]:
    """The tensors of a safetensors file, opened but not read.

    Raises:
        CheckpointError: it cannot be read or is damaged; ``again`` says what to do.
    """
    try:
        file.open("rb").close()
        return mx.load(str(file))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from None
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); {again}") from None


def check_weights(
    expected: dict[str, mx.array], weights: dict[str, mx.array], folder: Path, *, again: str
) -> None:
    """Refuse missing, extra and misshapen tensors, by name; ``again`` says what to do.

    Raises:
        CheckpointError: ``weights`` are not those that are ``expected``.
    """
    missing = [key for key in expected if key not in weights]
    if missing:
        raise CheckpointError(f"{folder} lacks {some(missing)}; {again}")
    extra = [key for key in weights if key not in expected]
    if extra:
        raise CheckpointError(
            f"{folder} holds {some(extra)}, which the configuration has no place for; {again}"
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
    """Read the tensors from disk, a few at a time, as ``dtype`` where they hold floats.

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
        bad += [key for key, good in zip(chunk, finite.tolist(), strict=True) if not good]
    mx.eval(weights)
    if bad:
        raise CheckpointError(f"{folder} holds NaN or infinity in {some(bad)}; the weights are damaged.")


def some(keys: Iterable[str], shown: int = 3) -> str:
    """The first few of ``keys``, and how many more there are."""
    keys = sorted(keys)
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more
