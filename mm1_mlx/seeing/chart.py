"""A chart of numbers from 0 up, with Pillow alone: a grid, lines, points, bars, and a key to their colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from mm1_mlx.seeing.draw import FAINT, INK, PAPER, draw_text

WIDTH, HEIGHT = 960, 540  # pixels
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 56, 56  # margins, pixels
GAP = 20  # pixels, behind a word of the key
GRID = "#e4e4e8"
STEPS = (1, 2, 5)  # distances that ticks may have, times a power of ten
Point = tuple[float | int, float | int]


class Chart:
    """A chart with two axes, to draw into.

    Args:
        title: the meaning of the vertical axis.
        across: the meaning of the horizontal axis.
        last: the largest number on the horizontal axis.
        highest: the largest number on the vertical axis.
        labels: places and texts of labels on the horizontal axis; by default round numbers.
    """

    def __init__(
        self,
        title: str,
        across: str,
        *,
        last: float,
        highest: float,
        labels: Sequence[tuple[float, str]] | None = None,
    ):
        self.image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._last, self._highest = max(last, 1e-9), max(highest, 1e-9)
        for tick in ticks(highest):
            y = round(self.place((0, tick))[1])
            self._draw.line((LEFT, y, WIDTH - RIGHT, y), fill=GRID)
            label = draw_text(f"{tick:g}", color=FAINT)
            self.image.paste(label, (LEFT - label.width - 10, y - label.height // 2))
        for at, words in [(tick, f"{tick:g}") for tick in ticks(last)] if labels is None else labels:
            x, label = round(self.place((at, 0))[0]), draw_text(words, color=FAINT)
            self.image.paste(label, (min(x - label.width // 2, WIDTH - label.width), HEIGHT - BOTTOM + 8))
        self.image.paste(draw_text(title, size=20, color=INK), (LEFT, 14))
        label = draw_text(across, color=FAINT)
        self.image.paste(label, ((LEFT + WIDTH - RIGHT - label.width) // 2, HEIGHT - label.height - 6))

    def place(self, point: Point) -> Point:
        """Return the place of a pair of numbers in the image, in pixels."""
        x = LEFT + point[0] / self._last * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - point[1] / self._highest * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[Point], color: str) -> None:
        """Draw a line through points."""
        self._draw.line([self.place(point) for point in points], fill=color, width=3, joint="curve")

    def point(self, point: Point, color: str) -> None:
        """Draw a point."""
        x, y = self.place(point)
        self._draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=color, outline=PAPER)

    def bar(self, at: float, low: float, high: float, color: str) -> None:
        """Draw a vertical interval from ``low`` to ``high``, with short lines at its ends."""
        (x, bottom), (_, top) = self.place((at, low)), self.place((at, high))
        self._draw.line((x, bottom, x, top), fill=color, width=1)
        for y in (bottom, top):
            self._draw.line((x - 4, y, x + 4, y), fill=color, width=1)

    def key(self, words: Sequence[tuple[str, str]]) -> None:
        """Write a key at the top right, with each name in the colour that it explains, in as many rows as needed."""
        rows: list[list[Image.Image]] = [[]]
        for said, color in words:
            label = draw_text(said, color=color)
            if rows[-1] and _width([*rows[-1], label]) > WIDTH // 2 - RIGHT:
                rows.append([])
            rows[-1].append(label)
        y = 18
        for row in rows:
            x = WIDTH - RIGHT - _width(row)
            for label in row:
                self.image.paste(label, (x, y))
                x += label.width + GAP
            y += max((label.height for label in row), default=0)


def ticks(highest: float) -> list[float]:
    """Return round numbers from 0 to ``highest``, about five of them."""
    if highest <= 0:
        return [0.0]
    power = 10 ** math.floor(math.log10(highest / 5))
    step = next(power * step for step in (*STEPS, 10) if highest / (power * step) <= 6)
    return [float(number * step) for number in range(int(highest / step) + 1)]


def _width(labels: Sequence[Image.Image]) -> int:
    return sum(label.width + GAP for label in labels)
