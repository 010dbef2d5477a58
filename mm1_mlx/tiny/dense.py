"""What stands at each place of a wider scene: labels by which encoder and connector are pre-trained.

They lie on the square picture that the encoder takes: a picture that is not square stands in its middle, padded.
"""

from __future__ import annotations

import math

import numpy as np

from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.lettering import DIGITS, LETTERS
from mm1_mlx.tiny.making import cover_with_circles
from mm1_mlx.tiny.scene import Scene, Thing
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import pictogram_classes
from mm1_mlx.tiny.telling import find_nearest_place

PICTOGRAMS = tuple(c.name for split in ("named", "unnamed") for c in pictogram_classes(split))
SYMBOLS = (*(f"letter {s}" for s in LETTERS), *(f"digit {s}" for s in DIGITS))
KIND_LABELS = ("nothing", *SHAPES, *SYMBOLS, "word", *PICTOGRAMS)
COLOR_LABELS = ("nothing", *COLORS)  # a pictogram has "nothing"
SIZE_LABELS = ("nothing", "small", "large")
MOST_THINGS = 8  # in a scene
_KINDS = {name: number for number, name in enumerate(KIND_LABELS)}


def dense_labels(scene: Scene, side: int = 9) -> np.ndarray:
    """Return ``(3, side * side)`` integers: kind, colour and size of the thing over each patch, 0 for none.

    Where things overlap, the label is that of the front one, which is the smaller.

    Raises:
        KeyError: the scene has a pictogram of a class that is kept for tests, which has no label.
    """
    labels = np.zeros((3, side, side), dtype=np.int32)
    for thing in sorted(scene.things, key=lambda t: -t.size):
        values = (
            _number_kind(thing),
            COLOR_LABELS.index(thing.color or "nothing"),
            SIZE_LABELS.index(thing.size_word),
        )
        for row, column in _find_covered(scene, thing, side):
            labels[:, row, column] = values
    return labels.reshape(3, -1)


def whole_labels(scene: Scene, side: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Return for each thing the shares of the patches it lies over or borders on, and its kind.

    Returns:
        ``(things, side * side)`` shares that sum to 1, and ``(things,)`` integers, 0 where there is no thing; a scene
        has at most ``MOST_THINGS``.
    """
    shares, kinds = np.zeros((MOST_THINGS, side, side), np.float32), np.zeros(MOST_THINGS, np.int32)
    for number, thing in enumerate(scene.things[:MOST_THINGS]):
        patches = _find_covered(scene, thing, side, reach=1.0, beyond=0.5 / side)
        kinds[number] = _number_kind(thing)
        for row, column in patches:
            shares[number, row, column] = 1 / len(patches)
    return shares.reshape(MOST_THINGS, -1), kinds


def dense_words(scene: Scene, side: int = 4) -> list[list[str]]:
    """Return for each cell of a grid, row by row, the words for the things whose centres lie in it.

    A thing belongs to one cell alone, so that cells can be counted; an empty cell has "nothing".
    """
    cells: list[list[str]] = [[] for _ in range(side * side)]
    for thing in scene.things:
        x, y = _place_on_square(scene, thing.x, thing.y)
        row, column = (min(side - 1, int(v * side)) for v in (y, x))
        words = [*find_nearest_place(scene, thing).split(), thing.size_word, thing.color, *thing.noun.split()]
        cells[row * side + column] += [word for word in words if word]
    return [words or ["nothing"] for words in cells]


def _number_kind(thing: Thing) -> int:
    return _KINDS["word" if thing.kind == "word" else thing.noun]


def _find_covered(
    scene: Scene, thing: Thing, side: int, *, reach: float = 0.8, beyond: float = 0.0
) -> list[tuple[int, int]]:
    """Return rows and columns of the patches that a thing lies over, at least that of its centre.

    Args:
        scene: the scene that has the thing.
        thing: what lies there.
        side: patches in a row.
        reach: share of a thing's radius within which the centre of a patch must lie.
        beyond: distance added to that radius, in shares of the picture's side.
    """
    x, y = _place_on_square(scene, thing.x, thing.y)
    found = {(min(side - 1, int(y * side)), min(side - 1, int(x * side)))}
    spots = [
        (*_place_on_square(scene, u, v), reach * radius + beyond)
        for u, v, radius in cover_with_circles(thing)
    ]
    for row in range(side):
        for column in range(side):
            u, v = (column + 0.5) / side, (row + 0.5) / side
            if any(math.hypot(u - a, v - b) < radius for a, b, radius in spots):
                found.add((row, column))
    return sorted(found)


def _place_on_square(scene: Scene, x: float, y: float) -> tuple[float, float]:
    """Return where a point of the picture lies on its padded square, in shares of the side."""
    return x + (1 - scene.width) / 2, y + (1 - scene.height) / 2
