"""Draw scenes of the wider tiny world."""

from __future__ import annotations

import io
import math
import random

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from mm1_mlx.tiny.backgrounds import paint_background
from mm1_mlx.tiny.lettering import cap_height, text_mask
from mm1_mlx.tiny.scene import Finish, Scene, Thing
from mm1_mlx.tiny.shapes import SHAPES, corners
from mm1_mlx.tiny.stock import SHIPPED, Stock

OVERSAMPLING = 4  # shapes are drawn this much larger, then averaged down
BICUBIC = Image.Resampling.BICUBIC


def draw_scene(scene: Scene, longest: int = 126, *, stock: Stock = SHIPPED) -> Image.Image:
    """Return a scene as an RGB picture whose longer side has ``longest`` pixels."""
    size = tuple(max(1, round(longest * side)) for side in (scene.width, scene.height))
    picture = paint_background(scene.background, size)
    for thing in sorted(scene.things, key=lambda t: -t.size):
        _draw(picture, thing, longest, stock)
    return _finished(picture, scene.finish, longest)


def _draw(picture: Image.Image, thing: Thing, longest: int, stock: Stock) -> None:
    if thing.kind == "pictogram":
        drawn = _turned(_pictogram(thing, longest, stock), thing.angle)
        picture.paste(drawn, _corner(thing, drawn.size, longest), drawn)
        return
    if thing.kind in SHAPES:
        mask, corner = _shape(thing, longest)
    else:
        mask = _turned(_text(thing, longest, stock), thing.angle)
        corner = _corner(thing, mask.size, longest)
    picture.paste(thing.paint, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)


def _shape(thing: Thing, longest: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return the mask of a shape and where its upper left corner goes."""
    size = thing.size * longest
    x, y = thing.x * longest, thing.y * longest
    half = math.ceil(0.7 * size) + 1
    left, top = math.floor(x) - half, math.floor(y) - half
    side = 2 * half + 2
    mask = Image.new("L", (side * OVERSAMPLING, side * OVERSAMPLING))
    draw = ImageDraw.Draw(mask)
    stroke = max(1, round(thing.stroke * longest * OVERSAMPLING))
    if thing.kind == "circle":
        box = [(c + sign * size / 2) * OVERSAMPLING for sign in (-1, 1) for c in (x - left, y - top)]
        draw.ellipse(box, fill=None if thing.stroke else 255, outline=255, width=stroke)
    else:
        points = [
            ((x - left + size * u) * OVERSAMPLING, (y - top + size * v) * OVERSAMPLING)
            for u, v in corners(thing.kind, thing.form, thing.angle)
        ]
        if thing.stroke:
            draw.line([*points, *points[:2]], fill=255, width=stroke, joint="curve")
        else:
            draw.polygon(points, fill=255)
    return mask.reduce(OVERSAMPLING), (left, top)


def _text(thing: Thing, longest: int, stock: Stock) -> Image.Image:
    mask = text_mask(thing.text, thing.face, stock)
    scale = thing.size * longest / cap_height(thing.face, stock)
    size = tuple(max(1, round(side * scale)) for side in mask.size)
    return mask.resize(size, Image.Resampling.LANCZOS)


def _pictogram(thing: Thing, longest: int, stock: Stock) -> Image.Image:
    side = max(1, round(thing.size * longest))
    return stock.picture(thing.face, thing.code).resize((side, side), Image.Resampling.LANCZOS)


def _turned(drawn: Image.Image, angle: float) -> Image.Image:
    return drawn.rotate(-angle, BICUBIC, expand=True) if angle else drawn


def _corner(thing: Thing, size: tuple[int, int], longest: int) -> tuple[int, int]:
    return tuple(round(v * longest - side / 2) for v, side in zip((thing.x, thing.y), size, strict=True))


def _finished(picture: Image.Image, finish: Finish, longest: int) -> Image.Image:
    if finish.light != 1:
        picture = ImageEnhance.Brightness(picture).enhance(finish.light)
    if finish.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(finish.blur * longest))
    if finish.noise:
        data = random.Random(finish.seed).randbytes(3 * picture.width * picture.height)
        picture = Image.blend(picture, Image.frombytes("RGB", picture.size, data), finish.noise)
    if finish.quality:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=finish.quality)
        picture = Image.open(packed).convert("RGB")
    return picture
