"""The twelve colours of the wider tiny world: what each looks like, and how far two paints are apart."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from functools import lru_cache

Paint = tuple[int, int, int]  # RGB, 0 to 255

# The paints that people call by each name: our own, those of CSS, and those of plotting programs.
SHADES: dict[str, tuple[Paint, ...]] = {
    "red": ((218, 36, 42), (255, 0, 0), (220, 20, 20), (196, 24, 36), (240, 52, 52)),
    "orange": ((245, 133, 24), (255, 140, 0), (255, 127, 14), (255, 152, 20), (238, 118, 16)),
    "yellow": ((248, 214, 20), (255, 255, 0), (255, 221, 0), (250, 230, 60), (255, 235, 59)),
    "green": ((38, 158, 62), (0, 128, 0), (44, 160, 44), (0, 190, 40), (76, 175, 80), (20, 110, 40)),
    "blue": ((34, 84, 214), (0, 0, 255), (31, 100, 190), (20, 60, 160), (33, 120, 243)),
    "purple": ((126, 44, 164), (128, 0, 128), (142, 68, 190), (110, 30, 180), (150, 60, 200)),
    "pink": ((246, 130, 186), (255, 105, 180), (255, 170, 200), (240, 98, 160), (255, 182, 205)),
    "black": ((18, 18, 20), (0, 0, 0), (30, 30, 32), (10, 10, 24)),
    "white": ((252, 252, 252), (255, 255, 255), (246, 246, 244)),
    "grey": ((128, 128, 128), (150, 150, 152), (110, 112, 114), (165, 165, 165)),
    "brown": ((121, 72, 36), (139, 69, 19), (110, 64, 40), (135, 84, 48), (101, 58, 24)),
    "cyan": ((40, 200, 220), (0, 255, 255), (23, 190, 207), (0, 210, 230), (64, 224, 236)),
}
COLORS = tuple(SHADES)
OTHER_SHADES = {color: [s for other in SHADES if other != color for s in SHADES[other]] for color in SHADES}
CONTRAST = 30.0  # least distance of a filled thing from what is behind it
THIN_CONTRAST = 40.0  # the same for an outline, a letter or a tiny thing
MOST_OFF = 0.72  # a paint is at most this much as far from its own shades as from those of other colours


def make_paint(values: Iterable[float]) -> Paint:
    """Return three values as a paint, rounded and kept between 0 and 255."""
    red, green, blue = (min(255, max(0, round(value))) for value in values)
    return red, green, blue


@lru_cache(maxsize=1 << 16)
def to_lab(paint: Paint) -> tuple[float, float, float]:
    """Return a paint in CIELAB coordinates, in which equal distances look about equally different."""
    linear = [v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in paint]
    rows = ((0.4339, 0.3762, 0.1899), (0.2126, 0.7152, 0.0722), (0.0178, 0.1095, 0.8727))
    x, y, z = (sum(a * b for a, b in zip(row, linear, strict=True)) for row in rows)
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def distance(paint: Paint, other: Paint) -> float:
    """Return how different two paints look: a distance of 2 is just visible, black and white are 100 apart."""
    return math.dist(to_lab(paint), to_lab(other))


def name_color(paint: Paint) -> str:
    """Return the name of the colour that has the shade nearest to ``paint``."""
    return min(COLORS, key=lambda color: _measure_nearest(paint, color))


def mix_paint(color: str, rng: random.Random) -> Paint:
    """Mix a random paint that everyone calls ``color``: between two of its shades, with a little noise."""
    while True:
        one, other = rng.choices(SHADES[color], k=2)
        share, light = rng.random(), rng.uniform(-8, 8)
        paint = make_paint(
            a + share * (b - a) + light + rng.uniform(-4, 4) for a, b in zip(one, other, strict=True)
        )
        most = _measure_nearest(paint, color) / MOST_OFF
        if all(distance(paint, shade) >= most for shade in OTHER_SHADES[color]):
            return paint


def is_visible_on(paint: Paint, backgrounds: tuple[Paint, ...], least: float) -> bool:
    """Tell whether ``paint`` stands out against every one of ``backgrounds``."""
    return all(distance(paint, background) >= least for background in backgrounds)


def lighten(paint: Paint, amount: float) -> Paint:
    """Return ``paint`` made lighter by ``amount`` of 255, or darker where the amount is negative."""
    return make_paint(v + amount for v in paint)


def blend(paint: Paint, other: Paint, share: float) -> Paint:
    """Return the paint that lies ``share`` of the way from ``paint`` to ``other``."""
    return make_paint(a + share * (b - a) for a, b in zip(paint, other, strict=True))


def _measure_nearest(paint: Paint, color: str) -> float:
    return min(distance(paint, shade) for shade in SHADES[color])
