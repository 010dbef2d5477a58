"""What is behind the things: plain, shaded, textured or noisy, light, dark or coloured."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from mm1_mlx.tiny.colors import Paint, blend, lighten, make_paint

TONES = ("white", "light", "coloured", "middle", "dark", "black")
TEXTURES = ("plain", "gradient", "radial", "cloudy", "striped", "dotted", "checked", "grainy")
FAINT = 40  # of 255: the largest difference in lightness between the paints of a pattern

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class Background:
    """Two paints and how they are spread; one seed gives the same pattern at every size."""

    tone: str  # one of TONES
    texture: str  # one of TEXTURES
    paints: tuple[Paint, Paint]
    seed: int

    @property
    def palette(self) -> tuple[Paint, ...]:
        """The paints against which things must stand out."""
        one, other = self.paints
        return (one,) if one == other else (one, blend(one, other, 0.5), other)


def make_background(tone: str, texture: str, rng: random.Random) -> Background:
    """Return a random background of a tone and a texture."""
    one = _pick_paint(tone, rng)
    other = one
    if texture in ("gradient", "radial"):
        other = (
            _pick_paint(tone, rng)
            if tone == "coloured"
            else lighten(one, rng.choice((-1, 1)) * rng.uniform(15, 70))
        )
    elif texture != "plain":
        other = lighten(one, rng.choice((-1, 1)) * rng.uniform(8, FAINT))
    return Background(tone, texture, (one, other), rng.getrandbits(32))


def paint_background(background: Background, size: Size) -> Image.Image:
    """Return an RGB picture of ``size`` with nothing but the background."""
    one, other = (Image.new("RGB", size, paint) for paint in background.paints)
    if background.texture == "plain":
        return one
    mask = MASKS[background.texture](size, random.Random(background.seed))
    return Image.composite(other, one, mask)


def _pick_paint(tone: str, rng: random.Random) -> Paint:
    if tone == "white":
        return (255, 255, 255)
    if tone == "black":
        return rng.choice(((0, 0, 0), (20, 20, 20), (18, 20, 36)))
    limits = {"light": (0.84, 0.98), "dark": (0.06, 0.3), "middle": (0.35, 0.75), "coloured": (0.35, 0.95)}
    value = rng.uniform(*limits[tone])
    saturation = {"light": 0.15, "dark": 0.7, "middle": 0.1, "coloured": 0.9}[tone] * rng.random()
    if tone == "coloured":
        saturation = max(saturation, 0.3)
    return make_paint(255 * v for v in colorsys.hsv_to_rgb(rng.random(), saturation, value))


def _draw_gradient(size: Size, rng: random.Random) -> Image.Image:
    side = max(size)
    slope = Image.linear_gradient("L").rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR)
    return slope.crop((38, 38, 218, 218)).resize((side, side), Image.Resampling.BILINEAR).crop((0, 0, *size))


def _draw_radial(size: Size, rng: random.Random) -> Image.Image:
    left, top = (rng.randint(0, 80) for _ in range(2))
    ring = Image.radial_gradient("L").crop((left, top, left + 176, top + 176))
    return ring.resize(size, Image.Resampling.BILINEAR)


def _draw_clouds(size: Size, rng: random.Random) -> Image.Image:
    cells = rng.randint(3, 16)
    cloud = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
    return cloud.resize(size, Image.Resampling.BICUBIC)


def _draw_stripes(size: Size, rng: random.Random) -> Image.Image:
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    step = max(size) / rng.uniform(5, 24)
    lean = rng.choice((0, 0, rng.uniform(-1, 1)))
    upright = rng.random() < 0.5
    length, breadth = size if upright else size[::-1]
    for number in range(-int(breadth / step) - 1, int((length + breadth) / step) + 1):
        start = number * step
        ends = ((start, 0), (start + lean * breadth, breadth))
        draw.line([end if upright else end[::-1] for end in ends], fill=255, width=max(1, round(step / 2)))
    return mask


def _draw_dots(size: Size, rng: random.Random) -> Image.Image:
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    step = max(size) / rng.uniform(7, 16)
    radius = step * rng.uniform(0.12, 0.3)
    for row in range(int(size[1] / step) + 1):
        for column in range(int(size[0] / step) + 1):
            x, y = (column + 0.5 * (row % 2)) * step, row * step
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask


def _draw_checks(size: Size, rng: random.Random) -> Image.Image:
    cells = rng.randint(4, 16)
    board = Image.new("L", (cells, cells))
    board.putdata([255 * ((k // cells + k % cells) % 2) for k in range(cells * cells)])
    side = max(size)
    return board.resize((side, side), Image.Resampling.NEAREST).crop((0, 0, *size))


def _draw_grain(size: Size, rng: random.Random) -> Image.Image:
    coarse = rng.choice((1, 1, 2, 3))
    small = (-(-size[0] // coarse), -(-size[1] // coarse))
    return Image.frombytes("L", small, rng.randbytes(small[0] * small[1])).resize(size)


MASKS: dict[str, Callable[[Size, random.Random], Image.Image]] = {
    "gradient": _draw_gradient,
    "radial": _draw_radial,
    "cloudy": _draw_clouds,
    "striped": _draw_stripes,
    "dotted": _draw_dots,
    "checked": _draw_checks,
    "grainy": _draw_grain,
}
