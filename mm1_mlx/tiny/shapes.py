"""The six shapes as outlines, in units of their size, turned as they are drawn.

The size of a shape is what a ruler would measure: the diameter of a circle, the side of a square (less a tenth), the
height of a diamond. A diamond is much narrower than high, so a square that stands on a corner stays a square.
"""

from __future__ import annotations

import math
import random

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
REACH = {  # radius of the circle around a shape
    "circle": 0.5,
    "square": 0.64,
    "triangle": 0.64,
    "star": 0.6,
    "diamond": 0.6,
    "cross": 0.56,
}
AREA = {"circle": 0.79, "square": 0.81, "triangle": 0.45, "star": 0.4, "diamond": 0.36, "cross": 0.6}
TURNS = {"circle": 0.0, "square": 90.0, "triangle": 120.0, "star": 72.0, "diamond": 180.0, "cross": 90.0}
FORMS = {  # what varies: a diamond's width, a star's inner radius, a cross's arm, a triangle's height
    "diamond": (0.5, 0.74),
    "star": (0.38, 0.52),
    "cross": (0.14, 0.21),
    "triangle": (0.8, 1.05),
}

Point = tuple[float, float]


def pick_proportion(shape: str, rng: random.Random) -> float:
    """Return a random proportion, by which shapes of one name differ; 0 for a shape that has none."""
    return rng.uniform(*FORMS[shape]) if shape in FORMS else 0.0


def find_corners(shape: str, form: float, angle: float) -> list[Point]:
    """Return the corners of a shape of size 1 around (0, 0), y downwards.

    Args:
        shape: one of ``SHAPES`` but the circle, which has none.
        form: its proportion, from ``pick_proportion``.
        angle: by which it is turned clockwise, in degrees.
    """
    turn = math.radians(angle)
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in _find_upright_corners(shape, form)]


def _find_upright_corners(shape: str, form: float) -> list[Point]:
    if shape == "square":
        return [(-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)]
    if shape == "triangle":
        height = form
        return [(0.0, -0.6 * height), (0.5, 0.4 * height), (-0.5, 0.4 * height)]
    if shape == "diamond":
        return [(0.0, -0.58), (0.58 * form, 0.0), (0.0, 0.58), (-0.58 * form, 0.0)]
    if shape == "star":
        radii = (0.58, 0.58 * form)
        return [
            (radii[k % 2] * math.sin(math.pi * k / 5), -radii[k % 2] * math.cos(math.pi * k / 5))
            for k in range(10)
        ]
    arm, far = form, 0.5  # cross: three corners for each arm, clockwise
    arms = [(-arm, -far), (arm, -far), (arm, -arm)]
    quarter = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))
    return [(a * x + b * y, c * x + d * y) for a, b, c, d in quarter for x, y in arms]
