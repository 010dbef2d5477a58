"""Read a GGUF file, llama.cpp's format: what it says of its model, and its tensors one at a time."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.tensor_files import Form, report_unreadable
from mm1_mlx.files.weights import list_some

from .gguf_blocks import KINDS, OTHERS
from .tensors import TensorInfo

MAGIC = b"GGUF"
VERSIONS = (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
PLAIN = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}

T = TypeVar("T")


def is_gguf(path: Path) -> bool:
    """Tell whether ``path`` is a file that begins as GGUF files do, or is named like one."""
    if not path.is_file():
        return False
    with report_unreadable(path), path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC or path.suffix == ".gguf"


def find_gguf(folder: Path) -> Path:
    """Return the GGUF file to read a decoder from: ``folder`` itself, or the only one in a folder without config.json.

    Where there is none, ``folder`` is returned.

    Raises:
        CheckpointError: there are several.
    """
    if not folder.is_dir() or (folder / "config.json").exists():
        return folder
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        raise CheckpointError(
            f"{folder} holds {len(found)} GGUF files ({list_some(path.name for path in found)}); give one of them."
        )
    return found[0] if found else folder


class GgufFile:
    """A GGUF file, mapped into memory; a tensor is read and unpacked when it is asked for.

    Attributes:
        path: the file.
        metadata: what it says of its model and tokenizer, by llama.cpp's keys.
        infos: shape of each tensor, and the type that it is read in.
        packed: whether some numbers are stored in blocks, and not as they are.
        shards: the file, as ``Tensors`` has it.

    Raises:
        CheckpointError: the file is no GGUF, is damaged, or holds a kind of tensor that is not known here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards = [path]
        with report_unreadable(path), path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise CheckpointError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                try:
                    self.metadata, shapes, self._places = _read_header(_Reader(mapped, len(MAGIC)))
                except (struct.error, ValueError, OverflowError, MemoryError) as error:
                    raise CheckpointError(f"{path} is damaged ({error}); download it again.") from None
                self._check_places(shapes, len(mapped))
        self.packed = any(KINDS[kind].unpack for kind, _ in self._places.values())
        dtype = self._choose_dtype(shapes)
        self.infos = {name: TensorInfo(shape, dtype, path) for name, shape in shapes.items()}

    def get(self, key: str, kind: type[T], default: T) -> T:
        """Return what the file says under ``key``, or ``default`` where it says nothing.

        Raises:
            CheckpointError: the value is of another type than ``kind``.
        """
        value = self.metadata.get(key, default)
        if kind is float and type(value) is int:
            return kind(value)
        if type(value) is not kind:
            raise CheckpointError(f"{self.path}: {key} is {value!r:.80}, expected {kind.__name__}.")
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """Return what the file says under ``key``.

        Raises:
            CheckpointError: it says nothing, or something of another type.
        """
        if key not in self.metadata:
            raise CheckpointError(f"{self.path} does not say {key}, which its decoder needs.")
        return self.get(key, kind, self.metadata[key])

    def need_list(self, key: str, kind: type[T], length: int | None = None) -> list[T]:
        """Return the list that the file gives under ``key``, which must hold ``length`` values of ``kind``.

        Raises:
            CheckpointError: there is none, or it holds others.
        """
        found: list[Any] = self.need(key, list)
        if any(type(value) is not kind for value in found) or len(found) != (length or len(found)):
            raise CheckpointError(
                f"{self.path}: {key} has {len(found)} values, expected {length or 'a list'} of {kind.__name__}."
            )
        return found

    def read(self, name: str) -> mx.array:
        """Return the tensor called ``name``, unpacked, in the type that ``infos`` states."""
        kind, start = self._places[name]
        how, info = KINDS[kind], self.infos[name]
        with report_unreadable(self.path):
            stored = np.fromfile(self.path, np.uint8, _count_bytes(kind, info.shape), offset=start)
        if how.unpack is None:
            value = mx.array(stored).view(PLAIN[how.name])
        else:
            with np.errstate(all="ignore"):  # what is not finite is refused where it is written
                value = mx.array(how.unpack(stored.reshape(-1, how.nbytes)))
        value = value.reshape(info.shape).astype(info.dtype)
        mx.eval(value)
        return value

    def _choose_dtype(self, shapes: dict[str, tuple[int, ...]]) -> mx.Dtype:
        """Return the type of all tensors: that of the matrices where it is one of 16 bits, else float32.

        Vectors are float32 in every GGUF file, and a model of two types computes in the wider one.
        """
        kinds = {KINDS[self._places[name][0]].name for name, shape in shapes.items() if len(shape) > 1}
        (kind,) = kinds if len(kinds) == 1 else ("F32",)
        return PLAIN.get(kind, mx.float32)

    def _check_places(self, shapes: dict[str, tuple[int, ...]], size: int) -> None:
        """Refuse kinds that are not known, and tensors that the file does not hold whole."""
        unknown = {OTHERS.get(kind, f"kind {kind}") for kind, _ in self._places.values() if kind not in KINDS}
        if unknown:
            known = ", ".join(kind.name for kind in KINDS.values())
            raise CheckpointError(
                f"{self.path} holds tensors of {list_some(sorted(unknown))}, which are not read here; take a file of "
                f"the same model in {known}."
            )
        if not shapes:
            raise CheckpointError(f"{self.path} holds no tensors; give a file with weights.")
        for name, (kind, start) in self._places.items():
            shape = shapes[name]
            if not shape or shape[-1] % KINDS[kind].length:
                raise CheckpointError(f"{self.path} is damaged: {name} is {shape} of {KINDS[kind].name}.")
            if start + _count_bytes(kind, shape) > size:
                raise CheckpointError(
                    f"{self.path} is cut short: it has {size} bytes, and {name} ends at "
                    f"{start + _count_bytes(kind, shape)}; download it again."
                )


def _read_header(
    reader: _Reader,
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], dict[str, tuple[int, int]]]:
    """Return the metadata, each tensor's shape, and its kind and first byte."""
    version = reader.number("I")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, expected {' or '.join(map(str, VERSIONS))}")
    num_tensors, num_keys = reader.number("Q"), reader.number("Q")
    metadata, shapes, places = {}, {}, {}
    for _ in range(num_keys):
        key = reader.text()
        metadata[key] = reader.value(reader.number("I"))
    for _ in range(num_tensors):
        name = reader.text()
        if name in shapes:
            raise ValueError(f"it holds {name} twice")
        axes = [reader.number("Q") for _ in range(reader.number("I"))]
        shapes[name] = tuple(reversed(axes))  # llama.cpp names the last axis first
        places[name] = (reader.number("I"), reader.number("Q"))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0:
        raise ValueError(f"general.alignment is {alignment!r}")
    start = -(-reader.place // alignment) * alignment
    return metadata, shapes, {name: (kind, start + place) for name, (kind, place) in places.items()}


def _count_bytes(kind: int, shape: tuple[int, ...]) -> int:
    """Return the bytes that a tensor takes in the file."""
    return Form(shape, mx.uint8).nbytes // KINDS[kind].length * KINDS[kind].nbytes


class _Reader:
    """Reads one value after the other of a file's beginning."""

    def __init__(self, data: mmap.mmap, place: int) -> None:
        self._data = data
        self.place = place  # of the next value, in bytes

    def number(self, code: str) -> Any:
        """Return the next number, of a type that ``struct`` calls ``code``."""
        (value,) = struct.unpack_from(f"<{code}", self._data, self.place)
        self.place += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        """Return the next text, which its length precedes."""
        length = self.number("Q")
        start, self.place = self.place, self.place + length
        if self.place > len(self._data):
            raise ValueError("a text ends past its end")
        return self._data[start : self.place].decode("utf-8")

    def value(self, kind: int) -> Any:
        """Return the next value of metadata, of the kind that GGUF gives this number."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise ValueError(f"it holds a value of the unknown kind {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner == ARRAY:
            raise ValueError("it holds lists of lists")
        if count > len(self._data):
            raise ValueError(f"it holds a list of {count} values")
        return [self.value(inner) for _ in range(count)]
