"""Visual tokens that were made before: a picture seen twice is encoded once.

A key stands for everything that the tokens depend on: the bytes of the whole picture file, the rule by which it is
resized and cut, and the weights that read it. Two pictures of one size never share an entry; one picture under two
names does, and is not even decoded again.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import OrderedDict
from pathlib import Path

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.files.identity import vision_identity
from mm1_mlx.files.writing import new_file
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import VISION_CACHE_MB


class VisionCache:
    """Least recently used visual tokens, bounded in bytes; on disk too, where a folder is given.

    Args:
        max_bytes: of the tokens in memory, and again of those on disk; 0 keeps none.
        folder: where entries outlive the process; made where there is none.
    """

    def __init__(self, max_bytes: int = VISION_CACHE_MB * 1_000_000, folder: Path | None = None):
        self.max_bytes = max_bytes
        self.folder = folder
        self.hits = self.misses = 0
        self.nbytes = 0  # of the tokens in memory
        self._entries: OrderedDict[str, mx.array] = OrderedDict()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        return key in self._entries or (self.folder is not None and self._path(key).exists())

    def get(self, key: str) -> Float[mx.array, "K D"] | None:
        """The tokens under ``key``, or None."""
        tokens = self._entries.get(key)
        if tokens is None and self.folder is not None:
            tokens = self._read(self._path(key))
        if tokens is None:
            self.misses += 1
            return None
        self.hits += 1
        self._keep(key, tokens)
        return tokens

    def put(self, key: str, tokens: Float[mx.array, "K D"]) -> None:
        """Remember evaluated tokens; what was not asked for longest goes first."""
        if tokens.nbytes > self.max_bytes:
            return
        self._keep(key, tokens)
        if self.folder is not None:
            self._write(self._path(key), tokens)

    def _keep(self, key: str, tokens: mx.array) -> None:
        self._drop(key)
        self._entries[key] = tokens
        self.nbytes += tokens.nbytes
        while self.nbytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        gone = self._entries.pop(key, None)
        self.nbytes -= 0 if gone is None else gone.nbytes

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _read(self, path: Path) -> mx.array | None:
        """An entry's tokens; one that is damaged is dropped, and said."""
        if not path.exists():
            return None
        try:
            loaded, metadata = mx.load(str(path), return_metadata=True)
            tokens = loaded["tokens"]
            mx.eval(tokens)
            if metadata.get("sha256") != _digest(tokens):
                raise ValueError("its content is not what was written")
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            print(
                f"mm1: the cached visual tokens {path.name} are damaged ({error}); dropped.", file=sys.stderr
            )
            path.unlink(missing_ok=True)
            return None
        os.utime(path)  # the file's time says when it was last asked for
        return tokens

    def _write(self, path: Path, tokens: mx.array) -> None:
        """Whole or not at all, by way of a temporary name; then the oldest files go."""
        with new_file(path) as temporary:
            mx.save_safetensors(str(temporary), {"tokens": tokens}, metadata={"sha256": _digest(tokens)})
        files = sorted(path.parent.glob("[!.]*.safetensors"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self.max_bytes or file == path:
                break
            total -= file.stat().st_size
            file.unlink(missing_ok=True)


def entry_key(digest: str, model: MM1) -> str:
    """The key of one picture's visual tokens; ``digest`` is of the picture's file and of how it is cut."""
    return hashlib.sha256(f"{digest} {vision_identity(model)}".encode()).hexdigest()


def _digest(tokens: mx.array) -> str:
    plain = tokens.view(mx.uint16) if tokens.dtype == mx.bfloat16 else tokens
    return hashlib.sha256(memoryview(plain)).hexdigest()
