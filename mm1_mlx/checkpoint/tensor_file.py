"""A safetensors file written one tensor after the other, where all together would not fit into memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlx.core as mx

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
