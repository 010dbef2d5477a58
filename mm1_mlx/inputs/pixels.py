"""Bring pixels of every depth to 8 bits of red, green and blue, and lay transparent ones over white.

All is done strip by strip, so that beside the picture and its result little memory is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mm1_mlx.image_config import Alpha

PIXELS_OF_A_STRIP = 1 << 19
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF
KINDS = {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned"}  # by the tag; 4 is "not said"
OFTEN_BLANK = ("BMP", "DIB", "ICO")  # formats whose writers leave an alpha of zeros where there is none


@dataclass(frozen=True)
class Range:
    """A value that may be white, and the share of a picture's values above 0 that must not be above it."""

    white: int
    share: float = 1.0


# What is white, by Pillow's mode, the bits of a sample and their kind. Of several ranges the first that fits counts,
# and if none does, the largest value is white. What is not a number, and what is below 0, is black.
# Half of the values decide whether floats end at 1, because highlights may go far beyond.
RANGES: dict[tuple[str, int, str], tuple[Range, ...]] = {
    ("L", 8, "signed"): (Range(127),),
    ("I;16", 12, "unsigned"): (Range(4095),),
    ("I;16", 16, "unsigned"): (Range(65535),),
    ("I", 16, "unsigned"): (Range(65535),),
    ("I", 16, "signed"): (Range(255), Range(32767)),
    ("I", 32, "unsigned"): (Range(255), Range(65535)),
    ("I", 32, "signed"): (Range(255), Range(65535)),
    ("F", 32, "float"): (Range(1, 0.5), Range(255, 0.99), Range(65535, 0.99)),
}


def to_8_bits(picture: Image.Image, alpha: Alpha, *, low: Image.Image | None = None) -> Image.Image:
    """Return the picture in 8-bit grey if its grey was deeper, or else in RGB.

    Args:
        picture: a picture of any mode, decoded.
        alpha: what transparent pixels become: "white", or with "drop" the colours stored under them.
        low: the second bytes of RGB samples of 16 bits, whose transparent colour has as many; then the picture
            itself is changed.

    Raises:
        ValueError: there is no way from this mode to RGB.
    """
    depth = _depth_of(picture)
    whiten = alpha == "white" and picture.has_transparency_data and not _has_blank_alpha(picture)
    if depth is None and not whiten:
        return picture if picture.mode == "RGB" else picture.convert("RGB")  # RGB to RGB would copy it
    white = None if depth is None else _find_white(picture, depth)
    made = picture if low is not None else Image.new("RGB" if depth is None else "L", picture.size)
    for box in _strips(picture.size):
        strip = picture.crop(box)
        if depth is not None and white is not None:
            strip = _scale(strip, depth, white, inverted=_is_inverted(picture), whiten=whiten)
        elif picture.mode == "RGB":
            _whiten_key(strip, picture.info["transparency"], None if low is None else low.crop(box))
        else:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")
        made.paste(strip, box)
    return made


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes as wide as the picture, from top to bottom."""
    width, height = size
    rows = max(PIXELS_OF_A_STRIP // width, 1)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _depth_of(picture: Image.Image) -> tuple[str, int, str] | None:
    """Return the key of ``RANGES`` for a picture, or None if its samples are plain bytes."""
    mode = "I;16" if picture.mode.startswith("I;16") else picture.mode
    tags = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    bits = tags.get(BITS_PER_SAMPLE, (32,))[0]
    kind = KINDS.get(tags.get(SAMPLE_FORMAT, (1,))[0], "unsigned")
    if mode == "I;16":
        return mode, 12 if bits == 12 else 16, "unsigned"
    if mode == "F":
        return mode, 32, "float"
    if mode == "I" and picture.format == "PPM":
        return mode, 16, "unsigned"
    if mode == "I":
        return (mode, bits, kind) if tags else (mode, 32, "signed")
    return (mode, 8, "signed") if mode == "L" and bits == 8 and kind == "signed" else None


def _is_inverted(picture: Image.Image) -> bool:
    """Tell whether 0 is white; Pillow itself sees to it where samples are bytes."""
    return picture.format == "TIFF" and getattr(picture, "tag_v2", {}).get(PHOTOMETRIC, 0) == 0


def _values(strip: Image.Image, depth: tuple[str, int, str]) -> np.ndarray:
    values = np.asarray(strip)
    if depth == ("I", 32, "unsigned"):  # Pillow's own integers are signed
        return values.view(np.uint32)
    return values.view(np.int8) if depth == ("L", 8, "signed") else values


def _find_white(picture: Image.Image, depth: tuple[str, int, str]) -> float:
    """Return the value that is white."""
    ranges = RANGES[depth]
    if len(ranges) == 1:
        return float(ranges[0].white)
    above, within, largest = 0, [0] * len(ranges), 0.0
    for box in _strips(picture.size):
        values = _values(picture.crop(box), depth)
        values = values[np.isfinite(values) & (values > 0)]
        above += values.size
        within = [n + np.count_nonzero(values <= r.white) for n, r in zip(within, ranges, strict=True)]
        largest = max(largest, float(values.max(initial=0)))
    fits = (float(r.white) for n, r in zip(within, ranges, strict=True) if n >= r.share * above)
    return next(fits, largest)


def _scale(
    strip: Image.Image, depth: tuple[str, int, str], white: float, *, inverted: bool, whiten: bool
) -> Image.Image:
    """Return a strip in 8-bit grey; with ``whiten`` its transparent shade becomes white."""
    values = _values(strip, depth)
    grey = np.nan_to_num(values.astype(np.float64), nan=0, posinf=white, neginf=0)
    grey = np.rint(np.clip(grey / white, 0, 1) * 255).astype(np.uint8)
    if inverted:
        grey = 255 - grey
    key = strip.info.get("transparency")
    if whiten and isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey)


def _whiten_key(strip: Image.Image, key: tuple[int, int, int], low: Image.Image | None) -> None:
    """Make the pixels of the transparent colour white, in place."""
    is_deep = low is not None or max(key) > 255
    is_key = np.all(np.asarray(strip) == [n >> 8 if is_deep else n for n in key], axis=-1)
    if low is not None:
        is_key &= np.all(np.asarray(low) == [n & 255 for n in key], axis=-1)
    strip.paste((255, 255, 255), (0, 0), Image.fromarray(is_key))


def _has_blank_alpha(picture: Image.Image) -> bool:
    """Tell whether all pixels would be transparent only because the writer left the alpha out."""
    if picture.format not in OFTEN_BLANK or picture.mode != "RGBA":
        return False
    return picture.getchannel("A").getextrema() == (0, 0)
