"""Draw scenes of the wider tiny world."""

from __future__ import annotations

import io
import math
import random

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from mm1_mlx.tiny.backgrounds import paint_background
from mm1_mlx.tiny.lettering import draw_text_mask, measure_cap_height
from mm1_mlx.tiny.scene import Finish, Scene, Thing
from mm1_mlx.tiny.shapes import SHAPES, find_corners
from mm1_mlx.tiny.stock import SHIPPED, Stock

OVERSAMPLING = 4  # shapes are drawn this much larger, then averaged down
BICUBIC = Image.Resampling.BICUBIC


def draw_scene(scene: Scene, longest: int = 126, *, stock: Stock = SHIPPED) -> Image.Image:
    """Draw a scene as an RGB picture whose longer side has ``longest`` pixels."""
    size = (max(1, round(longest * scene.width)), max(1, round(longest * scene.height)))
    picture = paint_background(scene.background, size)
    for thing in sorted(scene.things, key=lambda t: -t.size):
        _draw_thing(picture, thing, longest, stock)
    return _apply_finish(picture, scene.finish, longest)


def _draw_thing(picture: Image.Image, thing: Thing, longest: int, stock: Stock) -> None:
    if thing.kind == "pictogram":
        drawn = _turn(_draw_pictogram(thing, longest, stock), thing.angle)
        picture.paste(drawn, _find_corner(thing, drawn.size, longest), drawn)
        return
    if thing.kind in SHAPES:
        mask, corner = _draw_shape(thing, longest)
    else:
        mask = _turn(_draw_text(thing, longest, stock), thing.angle)
        corner = _find_corner(thing, mask.size, longest)
    picture.paste(thing.paint, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)


def _draw_shape(thing: Thing, longest: int) -> tuple[Image.Image, tuple[int, int]]:
    """Draw the mask of a shape; return it with the place of its upper left corner, in pixels."""
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
            for u, v in find_corners(thing.kind, thing.form, thing.angle)
        ]
        if thing.stroke:
            draw.line([*points, *points[:2]], fill=255, width=stroke, joint="curve")
        else:
            draw.polygon(points, fill=255)
    return mask.reduce(OVERSAMPLING), (left, top)


def _draw_text(thing: Thing, longest: int, stock: Stock) -> Image.Image:
    mask = draw_text_mask(thing.text, thing.face, stock)
    scale = thing.size * longest / measure_cap_height(thing.face, stock)
    size = (max(1, round(mask.width * scale)), max(1, round(mask.height * scale)))
    return mask.resize(size, Image.Resampling.LANCZOS)


def _draw_pictogram(thing: Thing, longest: int, stock: Stock) -> Image.Image:
    side = max(1, round(thing.size * longest))
    return stock.picture(thing.face, thing.code).resize((side, side), Image.Resampling.LANCZOS)


def _turn(drawn: Image.Image, angle: float) -> Image.Image:
    return drawn.rotate(-angle, BICUBIC, expand=True) if angle else drawn


def _find_corner(thing: Thing, size: tuple[int, int], longest: int) -> tuple[int, int]:
    return round(thing.x * longest - size[0] / 2), round(thing.y * longest - size[1] / 2)


def _apply_finish(picture: Image.Image, finish: Finish, longest: int) -> Image.Image:
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
