"""The file of a saved prompt: its KV cache in mlx-lm's layout, with its content and a digest of both.

A file is used only if it is what was written, and if every layer has the form that this model's own cache would have.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mm1_mlx.arrays import load_tensors
from mm1_mlx.errors import CheckpointError, MM1Error
from mm1_mlx.files.identity import model_identity, tensors_identity
from mm1_mlx.files.writing import new_file, require_file
from mm1_mlx.generation.caches import kv_group_size, make_cache
from mm1_mlx.model.mlx_lm_parts import load_prompt_cache, save_prompt_cache
from mm1_mlx.model.mm1 import MM1

KIND = "saved prompt cache"
UNREADABLE = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
MOVING = ("offset", "_idx")  # attributes of a layer's cache that change as it is filled

Places = tuple[int, int, str]  # of a picture: first position, the one after the last, digest


@dataclass(frozen=True)
class SavedPrompt:
    """What a file holds."""

    cache: list[Any]  # mlx-lm's, by layer
    content: list[int]  # as ``content_of`` gives it
    pictures: list[Places]
    kv_bits: int | None  # to which the cache is packed

    def digest(self) -> str:
        """Return a digest of the cache and of what it is said to hold."""
        leaves = dict(tree_flatten([layer.state for layer in self.cache]))
        arrays = {key: value for key, value in leaves.items() if isinstance(value, mx.array)}
        rest = {key: value for key, value in leaves.items() if key not in arrays}
        classes = [type(layer).__name__ for layer in self.cache]
        said = json.dumps([classes, rest, self.content, self.pictures, self.kv_bits])
        return hashlib.sha256(f"{tensors_identity(arrays)} {said}".encode()).hexdigest()

    def write(self, path: Path, model: MM1) -> None:
        """Write the file, completely or not at all; only an older one of its kind is replaced.

        Raises:
            CheckpointError: the file cannot be written, or something else has its name.
        """
        metadata = {
            "identity": model_identity(model),
            "content": " ".join(map(str, self.content)),
            "pictures": json.dumps(self.pictures),
            "kv_bits": json.dumps(self.kv_bits),
            "digest": self.digest(),
        }
        try:
            with new_file(path, suffix=".safetensors", is_kind=is_saved_prompt, kind=KIND) as temporary:
                save_prompt_cache(str(temporary), self.cache, metadata)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointError(f"the prompt cache {path} cannot be written: {reason}.") from None
        except RuntimeError as error:  # MLX's, which tells no reason
            what = str(error).removeprefix("[write] ").rstrip(".")
            raise CheckpointError(
                f"the prompt cache {path} cannot be written ({what}); is the disk full?"
            ) from None

    @classmethod
    def read(cls, path: Path, model: MM1) -> SavedPrompt:
        """Read a file that ``write`` wrote for the same model.

        Raises:
            CheckpointError: the file cannot be read, is damaged, or another model wrote it.
        """
        with _explain_unreadable(path):
            cache, metadata = _load(path)
            content = [int(number) for number in metadata["content"].split()]
            pictures = [(start, stop, digest) for start, stop, digest in json.loads(metadata["pictures"])]
            found = cls(cache, content, pictures, json.loads(metadata["kv_bits"]))
            if metadata.get("identity") != model_identity(model):
                raise CheckpointError(f"{path} was made by another model or other weights; make it again.")
            _require_form(found, model)
            if metadata.get("digest") != found.digest():
                raise ValueError("its content is not what was written")
        return found


def is_saved_prompt(path: Path) -> bool:
    """Tell whether a file is a saved prompt, of any model."""
    try:
        return "0.identity" in load_tensors(path)[1]
    except RuntimeError:  # MLX cannot read it
        return False


def require_place(path: Path) -> None:
    """Refuse, before the work, a name that no saved prompt can have.

    Raises:
        CheckpointError: there is something else, or no folder that it could stand in.
    """
    require_file(path, is_kind=is_saved_prompt, kind=KIND)
    if not path.parent.is_dir():
        raise CheckpointError(f"{path} cannot be written: there is no folder {path.parent}; make it first.")


def _load(path: Path) -> tuple[list[Any], dict[str, str]]:
    require_file(path)
    with path.open("rb"), tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "cache.safetensors")  # MLX needs this ending, but a file may have any name
        link.symlink_to(path.absolute())
        loaded: Any = load_prompt_cache(str(link), return_metadata=True)
        return loaded


@contextmanager
def _explain_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"the prompt cache {path} cannot be read: {error.strerror or error}.") from None
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} is no saved prompt cache, or damaged ({error}); make it again."
        ) from None


def _require_form(saved: SavedPrompt, model: MM1) -> None:
    """Compare every layer with one of the model's own after one token.

    Raises:
        ValueError: something has another form; the message names it.
    """
    ours = _fill(model, saved.kv_bits)
    if len(saved.cache) != len(ours):
        raise ValueError(f"it has {len(saved.cache)} layers, expected {len(ours)}")
    for number, (layer, own) in enumerate(zip(saved.cache, ours, strict=True), 1):
        if type(layer) is not type(own):
            raise ValueError(f"layer {number} is {type(layer).__name__}, expected {type(own).__name__}")
        held = getattr(layer, "offset", len(saved.content))
        if type(held) is not int or held != len(saved.content):
            raise ValueError(f"layer {number} holds {held} positions, expected {len(saved.content)}")
        for name, value in vars(own).items():
            if isinstance(value, int | float | str) and name not in MOVING and getattr(layer, name) != value:
                raise ValueError(f"layer {number} has {name} {getattr(layer, name)}, expected {value}")
        _require_arrays(number, layer, own)
    for start, stop, digest in saved.pictures:
        inside = type(start) is int and type(stop) is int and 0 <= start < stop <= len(saved.content)
        if not inside or not isinstance(digest, str):
            raise ValueError(
                f"a picture is said to be at {start} to {stop} of {len(saved.content)} positions"
            )


def _require_arrays(number: int, layer: Any, own: Any) -> None:
    """Compare the arrays of a layer's cache: they may differ in the number of positions alone."""
    theirs, expected = dict(tree_flatten(layer.state)), dict(tree_flatten(own.state))
    if theirs.keys() != expected.keys():
        raise ValueError(f"layer {number} has {len(theirs)} values, expected {len(expected)}")
    for key, value in expected.items():
        found = theirs[key]
        if not isinstance(value, mx.array):
            continue
        if not isinstance(found, mx.array) or found.dtype != value.dtype:
            raise ValueError(f"layer {number} holds {getattr(found, 'dtype', found)}, expected {value.dtype}")
        by_position = value.ndim == 4 and hasattr(own, "offset")
        wanted = (*value.shape[:2], *found.shape[2:3], *value.shape[3:]) if by_position else value.shape
        if found.shape != wanted or (by_position and _lacks_positions(layer, found.shape)):
            raise ValueError(f"layer {number} is {found.shape}, expected {value.shape} for one position")


def _lacks_positions(layer: Any, shape: Sequence[int]) -> bool:
    """Tell whether an array has fewer positions than its layer is said to hold; one with a window holds the last."""
    return shape[2] < min(layer.offset, getattr(layer, "max_size", layer.offset))


def _fill(model: MM1, kv_bits: int | None) -> list[Any]:
    """Return the cache that this model has after one token."""
    try:
        cache = make_cache(model, kv_bits=kv_bits)
        group_size = kv_group_size(model, kv_bits)
    except MM1Error as error:
        raise ValueError(str(error)) from None
    model.decoder(mx.array([[0]]), cache=cache)
    if kv_bits is None:
        return cache
    return [
        layer.to_quantized(group_size=group_size, bits=kv_bits) if hasattr(layer, "to_quantized") else layer
        for layer in cache
    ]
