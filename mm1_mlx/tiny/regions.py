"""What stands at each place of a picture: labels by which encoder and connector are pre-trained."""

from __future__ import annotations

import math

import numpy as np

from mm1_mlx.tiny.world import COLORS, DIGITS, LETTERS, PICTURE_SIZE, PLACES, RADII, SHAPES, Scene

KIND_LABELS = ("nothing", *SHAPES, *(f"letter {s}" for s in LETTERS), *(f"digit {s}" for s in DIGITS))
COLOR_LABELS = ("nothing", *COLORS)
SIZE_LABELS = ("nothing", *RADII)


def region_labels(scene: Scene, side: int = 9) -> np.ndarray:
    """Return ``(3, side * side)`` integers: kind, colour and size of the thing over each patch, 0 for none."""
    labels = np.zeros((3, side, side), dtype=np.int32)
    step = PICTURE_SIZE / side
    for thing in scene.things:
        values = (
            KIND_LABELS.index(thing.noun),
            COLOR_LABELS.index(thing.color),
            SIZE_LABELS.index(thing.size),
        )
        for row in range(side):
            for column in range(side):
                distance = math.hypot((column + 0.5) * step - thing.x, (row + 0.5) * step - thing.y)
                if distance < 0.85 * thing.radius:
                    labels[:, row, column] = values
    return labels.reshape(3, -1)


def region_words(scene: Scene, side: int = 4) -> list[list[str]]:
    """Return for each cell of a grid, row by row, the words for the things whose centres lie in it.

    A thing belongs to one cell alone, so that cells can be counted; an empty cell has its place and "nothing".
    """
    step = PICTURE_SIZE / side
    cells = []
    for row in range(side):
        for column in range(side):
            there = [t for t in scene.things if (int(t.y / step), int(t.x / step)) == (row, column)]
            words = [word for t in there for word in (*t.place.split(), t.size, t.color, *t.noun.split())]
            third_row, third_column = (int(3 * (k + 0.5) / side) for k in (row, column))
            cells.append(words or [*PLACES[3 * third_row + third_column].split(), "nothing"])
    return cells
