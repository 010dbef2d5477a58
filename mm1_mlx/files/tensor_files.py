"""Read and write tensor files (safetensors), with no more than one tensor in memory.

``safe_open`` of the safetensors package checks a file and lists what it holds. The values are read by MLX, or here,
for two reasons: safetensors 0.8.0 makes no bfloat16 arrays for MLX, and it maps the file into memory, so a file that
is cut short meanwhile would crash the process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from safetensors import SafetensorError, safe_open

from mm1_mlx.arrays import load_tensors, memory_of
from mm1_mlx.errors import CheckpointError

DTYPES = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "U16": mx.uint16,
    "U32": mx.uint32,
    "U64": mx.uint64,
    "I8": mx.int8,
    "I16": mx.int16,
    "I32": mx.int32,
    "I64": mx.int64,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "F32": mx.float32,
    "F64": mx.float64,
    "C64": mx.complex64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


class Form(NamedTuple):
    """The shape and type of a tensor, which are known before its values are read."""

    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor's values take."""
        return math.prod(self.shape) * self.dtype.size


class TensorFile:
    """A file whose tensors are read one at a time; the others stay on disk.

    Attributes:
        forms: shape and type of each tensor once it is read, by name, in the order of the file. float64, which GPUs
            lack, is read as float32.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or holds a type that MLX lacks; ``again`` is the advice
            that ends the message.
    """

    def __init__(self, path: Path, *, again: str) -> None:
        self.path = path
        self._again = again
        self._stored: dict[
            str, tuple[mx.Dtype, int]
        ] = {}  # the type in the file, and the position there in bytes
        self.forms: dict[str, Form] = {}
        with _open_checked(path, again) as header:
            with path.open("rb") as file:
                place = 8 + int.from_bytes(file.read(8), "little")
            for name in header.offset_keys():  # safe_open has checked that there are no gaps between them
                stored = header.get_slice(name)
                code, shape = stored.get_dtype(), tuple(stored.get_shape())
                if code not in DTYPES:
                    raise unsupported_dtype_error(path, name, code)
                if any(length >= 2**31 for length in shape):
                    raise CheckpointError(f"{path}: {name} is {shape}, more than MLX can count; {again}")
                self._stored[name] = DTYPES[code], place
                place += Form(shape, DTYPES[code]).nbytes
                self.forms[name] = Form(shape, loaded_dtype(DTYPES[code]))

    def read(self, name: str) -> mx.array:
        """Return the tensor called ``name``, evaluated.

        Raises:
            CheckpointError: the file can no longer be read.
        """
        dtype, place = self._stored[name]
        words = mx.zeros(self.forms[name].shape, WORDS[dtype.size], stream=mx.cpu)
        mx.eval(words)
        with report_unreadable(self.path), self.path.open("rb") as file:
            file.seek(place)
            found = file.readinto(memory_of(words))  # straight into the array, without a second copy
        if found != words.nbytes:
            raise CheckpointError(
                f"{self.path} ended after {found} of the {words.nbytes} bytes of {name}; {self._again}"
            )
        return convert_words(words, dtype)


def read_tensors(path: Path, *, again: str) -> dict[str, mx.array]:
    """Return the tensors of a file by name, each read when it is first computed with.

    Raises:
        CheckpointError: it cannot be read or is damaged; ``again`` is the advice that ends the message.
    """
    with _open_checked(path, again):
        return load_tensors(path)[0]


def write_tensors(
    path: Path,
    forms: Mapping[str, tuple[tuple[int, ...], mx.Dtype]],
    tensors: Iterable[mx.array],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as they are produced; no more than one is held in memory.

    Args:
        path: the file to write.
        forms: shape and type of each tensor, by name.
        tensors: the tensors, in the same order.
        metadata: what the file says of itself, besides its format.

    Raises:
        OSError: the file cannot be written.
        ValueError: a tensor does not have its announced form.
    """
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "mlx", **(metadata or {})}}
    end = 0
    for name, (shape, dtype) in forms.items():
        start, end = end, end + Form(shape, dtype).nbytes
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        coming = iter(tensors)
        for name, (shape, dtype) in forms.items():
            tensor = next(coming)
            if (tensor.shape, tensor.dtype) != (shape, dtype):
                raise ValueError(f"{name} is {tensor.shape} {tensor.dtype}, expected {shape} {dtype}.")
            file.write(memory_of(tensor.reshape(-1).view(mx.uint8)))
            del tensor  # frees its memory before the next one is made


def save_tensors(
    path: Path, tensors: Mapping[str, mx.array], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors that are in memory, as ``write_tensors`` does."""
    forms = {name: Form(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    write_tensors(path, forms, tensors.values(), metadata=metadata)


@contextmanager
def report_unreadable(path: Path) -> Iterator[None]:
    """Raise an error of the operating system inside the block as a message that ``path`` cannot be read.

    Raises:
        CheckpointError: the block raised such an error.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None


def convert_words(words: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return the bits of ``words`` as ``dtype``, converted on the CPU, because GPUs lack float64."""
    tensor = words.view(dtype, stream=mx.cpu).astype(loaded_dtype(dtype), stream=mx.cpu)
    mx.eval(tensor)
    return tensor


def loaded_dtype(dtype: mx.Dtype) -> mx.Dtype:
    """Return the type that a stored type has once it is read: float32 for float64, else the same."""
    return mx.float32 if dtype == mx.float64 else dtype


def unsupported_dtype_error(path: Path, name: str, dtype: object) -> CheckpointError:
    """Return the error to raise for a type that MLX lacks."""
    return CheckpointError(f"{path}: {name} holds {dtype}, which MLX lacks; save it as BF16, F16 or F32.")


@contextmanager
def _open_checked(path: Path, again: str) -> Iterator[safe_open]:
    """Open a file after checking that its header fits its size, so that damage shows before a tensor is read."""
    with report_unreadable(path):
        path.open("rb").close()
        size = path.stat().st_size
    try:
        with safe_open(path, framework="mlx") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({reason}; it has {size} bytes); {again}"
        ) from None
