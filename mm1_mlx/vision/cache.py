"""Keep visual tokens, so that a picture that is used again is not encoded again.

A key stands for everything that the tokens depend on: the bytes of the whole picture file, the rule by which it is
resized and cut, and the weights of the image encoder and the connector. Two different pictures never share an entry;
one picture file under two names has a single entry, and is not decoded a second time.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.arguments import require_type
from mm1_mlx.arrays import load_tensors, memory_of, to_number
from mm1_mlx.errors import SamplingError
from mm1_mlx.files.identity import vision_identity
from mm1_mlx.files.tensor_files import save_tensors
from mm1_mlx.files.writing import clean_up, new_file, require_file
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import VISION_CACHE_MB


class VisionCache:
    """A cache of visual tokens that drops the least recently used first, limited in bytes; optionally on disk too.

    Args:
        max_bytes: limit in bytes for the tokens in memory, and separately for those on disk; 0 keeps none.
        folder: where entries are stored so that they outlive the process; created if it is absent.

    Raises:
        OSError: the folder cannot be made.
        SamplingError: ``max_bytes`` is not a finite number of 0 or more, or ``folder`` is no path.
    """

    def __init__(self, max_bytes: int = VISION_CACHE_MB * 1_000_000, folder: str | Path | None = None):
        require_type("max_bytes", max_bytes, int | float, SamplingError)
        require_type("folder", folder, str | Path | None, SamplingError)
        if not 0 <= max_bytes < float("inf"):
            raise SamplingError(f"`max_bytes` is {max_bytes}, expected 0 or more.")
        self.max_bytes = max_bytes
        self.folder = folder = None if folder is None else Path(folder)
        self.hits = self.misses = 0
        self.nbytes = 0  # bytes of the tokens in memory
        self._entries: OrderedDict[str, mx.array] = OrderedDict()
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except ValueError as error:  # a NUL character
                raise SamplingError(f"`folder` is {str(folder)!r}, which cannot be made: {error}.") from None
            clean_up(folder)  # deletes the temporary files that an interrupted write has left

    def __contains__(self, key: str) -> bool:
        return key in self._entries or (self.folder is not None and _entry_path(self.folder, key).exists())

    def get(
        self, key: str, shape: tuple[int, int], dtypes: Collection[mx.Dtype]
    ) -> Float[mx.array, "K D"] | None:
        """Return the tokens under ``key``, or None; a damaged file or one of another shape or type is deleted, with a message.

        Args:
            key: from ``entry_key``.
            shape: the number of tokens, and their width.
            dtypes: the types that tokens of this model may have.

        Raises:
            OSError: something other than a regular file has the entry's name.
        """
        tokens = self._entries.get(key)
        if tokens is None and self.folder is not None:
            tokens = self._read_entry(_entry_path(self.folder, key), shape, dtypes)
        if tokens is None:
            self.misses += 1
            return None
        self.hits += 1
        self._keep(key, tokens)
        return tokens

    def put(self, key: str, tokens: Float[mx.array, "K D"]) -> None:
        """Keep tokens, which the caller has evaluated, in memory and in the folder, if there is one.

        The least recently used entries are dropped to stay within ``max_bytes``; tokens that alone exceed it are not
        kept.
        """
        if tokens.nbytes > self.max_bytes:
            return
        self._keep(key, tokens)
        if self.folder is not None:
            self._write_entry(_entry_path(self.folder, key), tokens)

    def _keep(self, key: str, tokens: mx.array) -> None:
        self._drop(key)
        self._entries[key] = tokens
        self.nbytes += tokens.nbytes
        while self.nbytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        gone = self._entries.pop(key, None)
        self.nbytes -= 0 if gone is None else gone.nbytes

    def _read_entry(
        self, path: Path, shape: tuple[int, int], dtypes: Collection[mx.Dtype]
    ) -> mx.array | None:
        """Return the tokens of a file, or None without one; a file that cannot be used is deleted, with a message."""
        if not path.exists():
            return None
        require_file(path)
        try:
            loaded, metadata = load_tensors(path)
            tokens = loaded["tokens"]
            if tokens.shape != shape or tokens.dtype not in dtypes:
                wanted = " or ".join(map(str, dtypes))
                raise ValueError(f"{tokens.shape} {tokens.dtype}, expected {shape} {wanted}")
            mx.eval(tokens)
            if metadata.get("sha256") != _hash_tokens(tokens):
                raise ValueError("its content is not what was written")
            if not to_number(mx.all(mx.isfinite(tokens))):
                raise ValueError("it holds NaN or infinity")
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            print(
                f"mm1: the cached visual tokens {path.name} cannot be used ({error}); deleted.",
                file=sys.stderr,
            )
            path.unlink(missing_ok=True)
            return None
        os.utime(path)  # the time of the file records when the entry was last used
        return tokens

    def _write_entry(self, path: Path, tokens: mx.array) -> None:
        """Write an entry whole or not at all; then delete the least recently used others until all fit ``max_bytes``."""
        with new_file(path) as temporary:
            save_tensors(temporary, {"tokens": tokens}, metadata={"sha256": _hash_tokens(tokens)})
        files = sorted(path.parent.glob("[!.]*.safetensors"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self.max_bytes or file == path:
                break
            total -= file.stat().st_size
            file.unlink(missing_ok=True)


def _entry_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def entry_key(digest: str, model: MM1) -> str:
    """Return the key of one picture's visual tokens, an SHA-256 in hexadecimal.

    Args:
        digest: hash of the picture's file and of the rule by which it is resized and cut.
        model: its image encoder and connector, whose weights the key depends on.
    """
    return hashlib.sha256(f"{digest} {vision_identity(model)}".encode()).hexdigest()


def _hash_tokens(tokens: mx.array) -> str:
    """Return the SHA-256 of the tokens' bytes; bfloat16, which Python's buffers do not know, is read as uint16."""
    plain = tokens.view(mx.uint16) if tokens.dtype == mx.bfloat16 else tokens
    return hashlib.sha256(memory_of(plain)).hexdigest()
