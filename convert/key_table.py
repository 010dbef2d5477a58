"""Key tables: where each tensor of a PyTorch checkpoint goes in a model folder, and back.

A table names every key of a checkpoint: its tensor is moved to one or more of our keys, in the layout that MLX needs,
or dropped on purpose. A key that is in no table is an error, never a guess.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import mlx.core as mx

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.weights import list_some

Arrays = tuple[mx.array, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform:
    """How one PyTorch tensor becomes ours; ``back`` undoes ``there`` bit for bit."""

    there: Callable[[mx.array], Arrays]
    back: Callable[[Arrays], mx.array]
    axes: int | None = None  # number of axes that the tensor must have
    unused: Callable[[Shape], int] = lambda shape: 0  # how many of its numbers are dropped on purpose

    def fits(self, shape: Shape) -> bool:
        """Say whether every number of a tensor of this shape has a place, except those dropped on purpose."""
        if self.axes is not None and len(shape) != self.axes:
            return False
        try:
            made = self.there(mx.zeros(shape))  # shapes only: no zero is ever made
        except (ValueError, IndexError):
            return False
        return sum(part.size for part in made) == math.prod(shape) - self.unused(shape)


@dataclass(frozen=True)
class Move:
    """The keys in a model folder that one source tensor is moved to, and how it is transformed."""

    targets: tuple[str, ...]
    transform: Transform


@dataclass(frozen=True)
class KeyTable:
    """Moves by source key, and patterns (``*`` for anything) of keys that are dropped on purpose."""

    moves: Mapping[str, Move]
    dropped: tuple[str, ...] = ()
    absent: Mapping[str, float] = field(default_factory=dict)  # what fills keys that may be absent

    def check(self, found: Iterable[str], folder: object) -> None:
        """Refuse keys that the table does not know, and missing ones, by name.

        Raises:
            CheckpointError: a key is not in the table, or one that the model needs is absent.
        """
        found = set(found)
        unknown = [key for key in found if key not in self.moves and not self.drops(key)]
        if unknown:
            near = difflib.get_close_matches(min(unknown), self.moves, n=1)
            hint = f" The nearest known key is {near[0]}." if near else ""
            raise CheckpointError(
                f"{folder} holds {list_some(unknown)}, which a checkpoint of its config.json does not have.{hint}"
            )
        missing = [key for key in self.moves if key not in found and key not in self.absent]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {list_some(missing)}; a shard is missing, or its config.json belongs to another model."
            )

    def drops(self, key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in self.dropped)

    def __add__(self, other: KeyTable) -> KeyTable:
        return KeyTable(
            {**self.moves, **other.moves}, self.dropped + other.dropped, {**self.absent, **other.absent}
        )

    def add_prefixes(self, source: str, target: str) -> KeyTable:
        """Return the same table with the prefix ``source`` before its source keys and ``target`` before ours."""
        moves = {
            source + key: Move(tuple(target + t for t in move.targets), move.transform)
            for key, move in self.moves.items()
        }
        dropped = tuple(source + pattern for pattern in self.dropped)
        return KeyTable(moves, dropped, {source + key: value for key, value in self.absent.items()})


def make_transform(
    there: Callable[[mx.array], mx.array], back: Callable[[mx.array], mx.array], axes: int | None = None
) -> Transform:
    """Return a transform with one target, made of its two directions."""
    return Transform(lambda x: (there(x),), lambda xs: back(xs[0]), axes)


SAME = make_transform(lambda x: x, lambda x: x)
POINTWISE = make_transform(
    lambda x: x[..., 0, 0], lambda x: x[..., None, None], axes=4
)  # a 1 x 1 convolution is a linear layer
DEPTHWISE = make_transform(lambda x: x.transpose(0, 2, 3, 1), lambda x: x.transpose(0, 3, 1, 2), axes=4)
BATCH_OF_ONE = make_transform(lambda x: x[0], lambda x: x[None])


def flatten_patches(patch_size: int, *, frames: int = 0) -> Transform:
    """Return a transform of a patch convolution ``(E, 3, p, p)`` or ``(E, 3, frames, p, p)`` to a linear layer's
    weight.

    Our weight flattens a patch in the order of its pixels: (frame,) row, column, channel.
    """
    shape = (*((frames,) if frames else ()), patch_size, patch_size, 3)
    return make_transform(
        lambda x: mx.moveaxis(x, 1, -1).reshape(x.shape[0], -1),
        lambda x: mx.moveaxis(x.reshape(x.shape[0], *shape), -1, 1),
        axes=len(shape) + 1,
    )


def split_rows(*lengths: int) -> Transform:
    """Return a transform that splits a tensor by consecutive rows; a length of 0 takes a single row without its axis."""

    def there(x: mx.array) -> Arrays:
        parts, start = [], 0
        for length in lengths:
            parts.append(x[start : start + length] if length else x[start])
            start += length or 1
        return tuple(parts)

    def back(parts: Arrays) -> mx.array:
        return mx.concatenate(
            [part if length else part[None] for part, length in zip(parts, lengths, strict=True)]
        )

    return Transform(there, back)


def split_thirds(width: int) -> Transform:
    """Return a transform that splits query, key and value, which are stored as one tensor."""
    return split_rows(width, width, width)


def keep_layer(source: str, target: str) -> dict[str, Move]:
    """Return the moves of a layer's weight and bias, which stay unchanged."""
    return {f"{source}.{name}": Move((f"{target}.{name}",), SAME) for name in ("weight", "bias")}


def drop_first_row() -> Transform:
    """Return a transform that drops the unused row for the class token from ``(1, 1 + L, E)``; the way back writes
    zeros.
    """
    return Transform(
        lambda x: (x[0, 1:],),
        lambda xs: mx.concatenate([mx.zeros_like(xs[0][:1]), xs[0]])[None],
        axes=3,
        unused=lambda shape: shape[-1],
    )


def keep_first_rows(count: int, stored: int) -> Transform:
    """Return a transform that keeps the first ``count`` of ``stored`` rows, the rest being padding; the way back
    writes zeros.
    """

    def back(x: mx.array) -> mx.array:
        return mx.concatenate([x, mx.zeros((stored - count, *x.shape[1:]), x.dtype)])

    def unused(shape: Shape) -> int:
        return (stored - count) * math.prod(shape[1:])

    return Transform(lambda x: (x[:count],), lambda xs: back(xs[0]), unused=unused)
