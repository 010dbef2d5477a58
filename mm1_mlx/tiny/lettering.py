"""Letters, digits and words as masks, in faces made from Pillow's own fonts or read from a stock."""

from __future__ import annotations

import io
from functools import cache, lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFont

from mm1_mlx.tiny.stock import SHIPPED, Stock

LETTERS = tuple("ABCDEFGHJKLMNPQRSTUVWXYZ")  # without I and O, which look like 1 and 0 when they stand alone
DIGITS = tuple("0123456789")
OWN_FACES = ("plain", "bold", "slanted", "wide", "narrow", "pixel", "hollow")
BASE = 72  # pixels: masks are made at this font size and scaled
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Number = int | float  # Pillow measures text in either
STRETCH = {"wide": 1.3, "narrow": 0.72}


def list_faces(stock: Stock) -> tuple[str, ...]:
    """Return the names of the faces in which ``stock`` can write."""
    return OWN_FACES + stock.fonts


def measure_ratio(text: str, face: str, stock: Stock = SHIPPED) -> float:
    """Return the width of ``text`` in heights of a capital letter."""
    return draw_text_mask(text, face, stock).width / measure_cap_height(face, stock)


@lru_cache(maxsize=2048)
def draw_text_mask(text: str, face: str, stock: Stock = SHIPPED) -> Image.Image:
    """Draw ``text`` as an "L" mask, cropped to its ink."""
    if face == "pixel":
        return _draw_pixel_mask(text)
    font = _load_font(face, stock)
    stroke = {"bold": 4, "hollow": 3}.get(face, 0)
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    size = (round(right - left) + 2, round(bottom - top) + 2)
    mask = _write(text, font, stroke, (1 - left, 1 - top), size)
    if face == "hollow":
        mask = ImageChops.subtract(mask, _write(text, font, 0, (1 - left, 1 - top), size))
    if face == "slanted":
        lean = 0.22 * mask.height
        size = (mask.width + round(lean), mask.height)
        mask = mask.transform(
            size, Image.Transform.AFFINE, (1, 0.22, -lean, 0, 1, 0), Image.Resampling.BICUBIC
        )
    if face in STRETCH:
        mask = mask.resize((max(1, round(mask.width * STRETCH[face])), mask.height))
    return mask.crop(mask.getbbox())


@cache
def measure_cap_height(face: str, stock: Stock = SHIPPED) -> int:
    """Return the height of a capital letter in the pixels of ``draw_text_mask``."""
    return draw_text_mask("H", face, stock).height


def _write(
    text: str, font: Font, stroke: int, place: tuple[Number, Number], size: tuple[int, int]
) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).text(place, text, fill=255, font=font, stroke_width=stroke)
    return mask


def _draw_pixel_mask(text: str) -> Image.Image:
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("1", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=1, font=font)
    mask = mask.convert("L").crop(mask.getbbox())
    return mask.resize((mask.width * 8, mask.height * 8), Image.Resampling.NEAREST)


@cache
def _load_font(face: str, stock: Stock) -> Font:
    if face in OWN_FACES:
        return ImageFont.load_default(BASE)
    return ImageFont.truetype(io.BytesIO(stock.font(face)), BASE)
