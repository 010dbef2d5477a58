"""Pictures from outside the tiny world, about which the model should say that it knows only simple drawn things.

Training shows some kinds; the others measure whether unknown pictures are refused too. Photographs come from the folder
of a stock.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from mm1_mlx.tiny.colors import Paint, make_paint
from mm1_mlx.tiny.lettering import LETTERS, draw_text_mask
from mm1_mlx.tiny.stock import SHIPPED, Stock

SIDE = 126  # pixels


def draw_outside_picture(seed: int, *, held_out: bool = False, stock: Stock = SHIPPED) -> Image.Image:
    """Draw the picture of ``seed``.

    Args:
        seed: decides kind and content.
        held_out: use the kinds and the photographs that training never shows.
        stock: where photographs come from; without photographs all pictures are drawn here.
    """
    rng = random.Random(seed)
    makers = HELD_OUT if held_out else TRAINED
    photographs = stock.photographs(held_out=held_out)
    if photographs and rng.random() < 0.4:
        return _cut_photograph(rng.choice(photographs), rng)
    picture = rng.choice(tuple(makers.values()))(rng)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    return picture


def _cut_photograph(photograph: Image.Image, rng: random.Random) -> Image.Image:
    """Cut a random square from a photograph, sometimes mirrored or grey."""
    side = min(photograph.size) * rng.uniform(0.45, 1)
    x, y = (rng.uniform(0, whole - side) for whole in photograph.size)
    part = photograph.resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC, (x, y, x + side, y + side), reducing_gap=2
    )
    part = ImageOps.mirror(part) if rng.random() < 0.5 else part
    return ImageOps.grayscale(part).convert("RGB") if rng.random() < 0.15 else part


def _draw_noise(rng: random.Random) -> Image.Image:
    cells = rng.choice((126, 63, 42, 21, 14))
    mode, depth = rng.choice((("RGB", 3), ("RGB", 3), ("L", 1)))
    picture = Image.frombytes(mode, (cells, cells), rng.randbytes(cells * cells * depth)).convert("RGB")
    return picture.resize((SIDE, SIDE), rng.choice((Image.Resampling.NEAREST, Image.Resampling.BICUBIC)))


def _draw_clouds(rng: random.Random) -> Image.Image:
    """Draw fractal noise in three vivid colours."""
    height = _draw_fractal(rng)
    first, second, third = (_pick_vivid(rng) for _ in range(3))
    return ImageOps.colorize(ImageOps.autocontrast(height), first, third, second)


def _draw_fractal(rng: random.Random) -> Image.Image:
    total = Image.new("L", (SIDE, SIDE), 128)
    for cells, share in ((3, 0.6), (6, 0.4), (12, 0.3), (25, 0.2), (50, 0.15)):
        layer = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
        total = Image.blend(total, layer.resize((SIDE, SIDE), Image.Resampling.BICUBIC), share)
    return total


def _draw_landscape(rng: random.Random) -> Image.Image:
    """Draw sky, sun and ridges of hills."""
    sky = ImageOps.colorize(
        Image.linear_gradient("L").resize((SIDE, SIDE)), _pick_vivid(rng), _pick_pale(rng)
    )
    draw = ImageDraw.Draw(sky)
    x, y, r = rng.uniform(10, 116), rng.uniform(8, 50), rng.uniform(4, 14)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=_pick_pale(rng))
    level = rng.uniform(45, 75)
    for _ in range(rng.randint(2, 5)):
        ridge: list[tuple[float, float]] = [(0, SIDE)]
        height = level
        for step in range(0, SIDE + 6, 6):
            height += rng.uniform(-6, 6)
            ridge.append((step, height))
        draw.polygon([*ridge, (SIDE, SIDE)], fill=_pick_vivid(rng, most=0.7))
        level += rng.uniform(10, 25)
    grain = Image.frombytes("RGB", (SIDE, SIDE), rng.randbytes(3 * SIDE * SIDE))
    return Image.blend(sky, grain, rng.uniform(0, 0.15))


def _draw_screenshot(rng: random.Random) -> Image.Image:
    """Draw a window with bars, panels and lines of text too small to read."""
    dark = rng.random() < 0.3
    paper, ink = ((30, 32, 38), (200, 200, 205)) if dark else ((250, 250, 250), (70, 70, 80))
    picture = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(picture)
    bar = rng.randint(7, 14)
    draw.rectangle((0, 0, SIDE, bar), fill=_pick_vivid(rng) if rng.random() < 0.6 else ink)
    for k in range(rng.randint(2, 6)):
        draw.rectangle((4 + 14 * k, bar // 2 - 1, 12 + 14 * k, bar // 2 + 1), fill=paper)
    left = rng.choice((4, 30, 40))
    if left > 4:
        draw.rectangle((0, bar, left - 4, SIDE), fill=_pick_pale(rng) if not dark else (44, 46, 54))
        for y in range(bar + 6, SIDE - 4, 8):
            draw.rectangle((4, y, rng.randint(10, left - 8), y + 2), fill=ink)
    y = bar + 5
    while y < SIDE - 6:
        if rng.random() < 0.2:
            height = rng.randint(10, 30)
            draw.rectangle(
                (left, y, rng.randint(left + 20, SIDE - 4), y + height), fill=_pick_vivid(rng), outline=ink
            )
            y += height + 4
        else:
            _draw_line_of_text(draw, left, y, rng.randint(60, SIDE - 4), ink, rng)
            y += rng.choice((4, 5, 6))
    return picture


def _draw_line_of_text(
    draw: ImageDraw.ImageDraw, left: int, y: int, right: int, ink: Paint, rng: random.Random
) -> None:
    x = left
    while x < right:
        word = rng.randint(3, 12)
        draw.line((x, y, min(right, x + word), y), fill=ink, width=rng.choice((1, 1, 2)))
        x += word + 2


def _draw_plot(rng: random.Random) -> Image.Image:
    """Draw axes with curves, bars or points."""
    picture = Image.new("RGB", (SIDE, SIDE), rng.choice(((255, 255, 255), (234, 234, 242), (20, 20, 24))))
    draw = ImageDraw.Draw(picture)
    ink = (120, 120, 120)
    draw.line((16, 8, 16, 110, 120, 110), fill=ink)
    for k in range(6):
        draw.line((16, 10 + 18 * k, 120, 10 + 18 * k), fill=(190, 190, 190))
    kind = rng.choice(("curves", "bars", "points"))
    for _ in range(rng.randint(2, 4) if kind != "bars" else 1):
        paint, phase, rise = _pick_vivid(rng), rng.uniform(0, 6), rng.uniform(10, 45)
        points = [
            (x, 60 + rise * math.sin(phase + x / rng.uniform(9, 11)) + rng.uniform(-4, 4))
            for x in range(18, 120, 4)
        ]
        if kind == "curves":
            draw.line(points, fill=paint, width=rng.choice((1, 2)))
        for x, y in points:
            if kind == "points":
                draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=paint)
            elif kind == "bars" and int(x) % 8 == 2:
                draw.rectangle((x, y, x + 4, 110), fill=paint)
    return picture


def _draw_scribble(rng: random.Random) -> Image.Image:
    """Draw many curves over each other."""
    picture = Image.new("RGB", (SIDE, SIDE), _pick_pale(rng))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(12, 40)):
        x, y = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
        turn, points = rng.uniform(0, 6), []
        for _ in range(rng.randint(8, 40)):
            turn += rng.uniform(-0.8, 0.8)
            x, y = x + 6 * math.cos(turn), y + 6 * math.sin(turn)
            points.append((x, y))
        draw.line(points, fill=_pick_vivid(rng), width=rng.randint(1, 4), joint="curve")
    return picture


def _draw_blobs(rng: random.Random) -> Image.Image:
    """Draw translucent patches over each other, out of focus."""
    picture = Image.new("RGB", (SIDE, SIDE), _pick_vivid(rng))
    for _ in range(rng.randint(15, 40)):
        mask = Image.new("L", (SIDE, SIDE))
        x, y = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
        a, b = rng.uniform(5, 40), rng.uniform(5, 40)
        ImageDraw.Draw(mask).ellipse((x - a, y - b, x + a, y + b), fill=rng.randint(90, 220))
        picture.paste(_pick_vivid(rng), (0, 0), mask)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4)))


def _draw_mosaic(rng: random.Random) -> Image.Image:
    """Draw a surface of many coloured cells."""
    cells = rng.randint(9, 24)
    paints = [_pick_vivid(rng) for _ in range(rng.randint(3, 8))]
    board = Image.new("RGB", (cells, cells))
    board.putdata([rng.choice(paints) for _ in range(cells * cells)])
    board = board.resize((SIDE * 2, SIDE * 2), Image.Resampling.NEAREST)
    return board.rotate(rng.choice((0, 45, rng.uniform(0, 90)))).crop((63, 63, 189, 189))


def _draw_marble(rng: random.Random) -> Image.Image:
    waves = rng.uniform(1, 3)
    table = [round(127 + 127 * math.sin(waves * v / 255 * 6.28)) for v in range(256)]
    return ImageOps.colorize(
        ImageOps.autocontrast(_draw_fractal(rng)).point(table), _pick_vivid(rng), _pick_pale(rng)
    )


def _draw_page(rng: random.Random) -> Image.Image:
    """Draw a page of print that is too small to read."""
    picture = Image.new("RGB", (SIDE, SIDE), rng.choice(((252, 250, 244), (255, 255, 255), (240, 230, 205))))
    columns = rng.choice((1, 2, 3))
    width = (SIDE - 12) // columns
    for column in range(columns):
        for y in range(rng.randint(5, 20), SIDE - 8, rng.choice((5, 6, 7))):
            x = 6 + column * width
            while x < 6 + (column + 1) * width - 12:
                word = draw_text_mask("".join(rng.choices(LETTERS[:8], k=rng.randint(2, 5))), "plain")
                small = word.resize((max(1, word.width * 4 // word.height), 4))
                picture.paste((50, 50, 55), (x, y), small)
                x += small.width + 2
    return picture.rotate(rng.uniform(-3, 3), fillcolor=(200, 200, 200))


def _draw_maze(rng: random.Random) -> Image.Image:
    cells = rng.randint(10, 20)
    picture = Image.new("RGB", (SIDE, SIDE), _pick_pale(rng))
    draw = ImageDraw.Draw(picture)
    step, ink = SIDE / cells, _pick_vivid(rng, most=0.5)
    for row in range(cells):
        for column in range(cells):
            x, y = column * step, row * step
            rising = rng.random() < 0.5
            ends = (x, y + step, x + step, y) if rising else (x, y, x + step, y + step)
            draw.line(ends, fill=ink, width=2)
    return picture


def _draw_kaleidoscope(rng: random.Random) -> Image.Image:
    part = _draw_blobs(rng).crop((0, 0, 63, 63))
    part = ImageChops.lighter(part, part.transpose(Image.Transpose.TRANSPOSE))
    top = Image.new("RGB", (SIDE, 63))
    top.paste(part, (0, 0))
    top.paste(ImageOps.mirror(part), (63, 0))
    picture = Image.new("RGB", (SIDE, SIDE))
    picture.paste(top, (0, 0))
    picture.paste(ImageOps.flip(top), (0, 63))
    return picture


def _draw_rings(rng: random.Random) -> Image.Image:
    """Draw the interference of waves from two points."""
    picture = Image.radial_gradient("L").resize((2 * SIDE, 2 * SIDE))
    (a, b), (c, d) = ((rng.randint(0, SIDE), rng.randint(0, SIDE)) for _ in range(2))
    waves = [round(127 + 127 * math.sin(v / rng.choice((3, 4)))) for v in range(256)]
    one = picture.crop((a, b, a + SIDE, b + SIDE)).point(waves)
    other = picture.crop((c, d, c + SIDE, d + SIDE)).point(waves)
    return ImageOps.colorize(Image.blend(one, other, 0.5), _pick_vivid(rng), _pick_pale(rng))


def _pick_vivid(rng: random.Random, most: float = 1.0) -> Paint:
    values = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.4, 1), rng.uniform(0.2, most))
    return make_paint(255 * v for v in values)


def _pick_pale(rng: random.Random) -> Paint:
    values = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.8, 1))
    return make_paint(255 * v for v in values)


PictureMaker = Callable[[random.Random], Image.Image]
TRAINED: dict[str, PictureMaker] = {
    "noise": _draw_noise,
    "clouds": _draw_clouds,
    "landscape": _draw_landscape,
    "screenshot": _draw_screenshot,
    "plot": _draw_plot,
    "scribble": _draw_scribble,
    "blobs": _draw_blobs,
    "mosaic": _draw_mosaic,
}
HELD_OUT: dict[str, PictureMaker] = {
    "marble": _draw_marble,
    "page": _draw_page,
    "maze": _draw_maze,
    "kaleidoscope": _draw_kaleidoscope,
    "rings": _draw_rings,
}
