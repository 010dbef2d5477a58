"""Write safetensors shards one tensor at a time: what will come is known before, so headers go first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

NAMES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.uint8: "U8",
    mx.int32: "I32",
    mx.int64: "I64",
    mx.bool_: "BOOL",
}
MAX_SHARD = 5_000_000_000  # bytes, as mlx-lm writes them


@dataclass(frozen=True)
class Entry:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        size = self.dtype.size
        for length in self.shape:
            size *= length
        return size


class ShardWriter:
    """Writes ``entries`` in their order into ``model*.safetensors`` of ``folder``; the index when it is left.

    One tensor is in memory at a time, however large the shards are.
    """

    def __init__(self, folder: Path, entries: list[Entry], *, max_shard: int = MAX_SHARD):
        self.folder = folder
        self._entries = iter(entries)
        self._shards = _assign(entries, max_shard)
        self._remaining: list[Entry] = []
        self._file = None
        self._number = 0
        self.index = {
            entry.name: self._name(number)
            for number, shard in enumerate(self._shards, start=1)
            for entry in shard
        }
        self._total = sum(entry.nbytes for entry in entries)

    def _name(self, number: int) -> str:
        total = len(self._shards)
        return "model.safetensors" if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"

    def add(self, name: str, value: mx.array) -> None:
        """Write the next tensor; it must be the next of ``entries``."""
        if not self._remaining:
            self._open_next()
        entry = self._remaining.pop(0)
        if (entry.name, entry.shape, entry.dtype) != (name, value.shape, value.dtype):
            raise ValueError(f"{name} {value.shape} {value.dtype} came in the place of {entry}")
        if value.dtype == mx.bfloat16:
            value = value.view(mx.uint16)
        self._file.write(np.ascontiguousarray(np.array(value, copy=False)).data)
        if not self._remaining:
            self._file.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None:
            index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(self.index.items()))}
            text = json.dumps(index, indent=2) + "\n"
            (self.folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")

    def _open_next(self) -> None:
        self._remaining = list(self._shards[self._number])
        self._number += 1
        header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
        offset = 0
        for entry in self._remaining:
            stop = offset + entry.nbytes
            header[entry.name] = {
                "dtype": NAMES[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": [offset, stop],
            }
            offset = stop
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = (self.folder / self._name(self._number)).open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)


def _assign(entries: list[Entry], max_shard: int) -> list[list[Entry]]:
    """Consecutive entries in shards of at most ``max_shard`` bytes, or of one entry."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.nbytes > max_shard:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.nbytes
    return shards
