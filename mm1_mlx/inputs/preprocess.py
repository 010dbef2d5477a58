"""From an RGB picture to the pixels an image encoder was trained on. NumPy and Pillow only."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from mm1_mlx.config import ImageConfig
from mm1_mlx.errors import PictureError
from mm1_mlx.settings import MAX_PICTURE_PIXELS

BICUBIC = Image.Resampling.BICUBIC
LARGEST_RATIO = 200  # of a picture's sides, for ``smart_resize``


def to_square(
    picture: Image.Image, size: int, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> Image.Image:
    """A ``size`` x ``size`` picture, by ``config.resize``: stretched, centre-cropped or padded.

    Raises:
        PictureError: it is so long and thin that a square of it would fill the memory.
    """
    if config.resize == "squash":
        return picture.resize((size, size), BICUBIC)
    if config.resize == "crop":
        return _crop(picture, size, max_pixels)
    return pad_to_square(picture, config, max_pixels=max_pixels).resize((size, size), BICUBIC)


def _crop(picture: Image.Image, size: int, max_pixels: int) -> Image.Image:
    """The shorter side becomes ``size``; the middle is kept. As transformers' ``CLIPImageProcessor``."""
    width, height = picture.size
    shorter, longer = sorted((width, height))
    other = int(size * longer / shorter)
    _require_room(picture, size, other, max_pixels)
    width, height = (size, other) if width <= height else (other, size)
    picture = picture.resize((width, height), BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def pad_color(config: ImageConfig) -> tuple[int, int, int]:
    """The mean colour, which normalises to about 0."""
    return tuple(int(255 * value) for value in config.mean)


def pad_to_square(
    picture: Image.Image, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> Image.Image:
    """``picture`` in the middle of a square of the mean colour, as wide as its longer side."""
    side = max(picture.size)
    _require_room(picture, side, side, max_pixels)
    return paste_centered(picture, (side, side), config)


def _require_room(picture: Image.Image, width: int, height: int, max_pixels: int) -> None:
    """Long and thin pictures grow when they are padded or cropped to a square."""
    if width * height > max_pixels:
        raise PictureError(
            f"a picture of {picture.width} x {picture.height} pixels needs a canvas of {width} x {height} for this "
            f"model, more than the limit of {max_pixels:,} pixels; cut it into pieces or raise `max_pixels`."
        )


def paste_centered(picture: Image.Image, canvas_size: tuple[int, int], config: ImageConfig) -> Image.Image:
    """``picture`` in the middle of a canvas of the mean colour; ``canvas_size`` is (width, height)."""
    canvas = Image.new("RGB", canvas_size, pad_color(config))
    left, top = ((c - p) // 2 for c, p in zip(canvas_size, picture.size, strict=True))
    canvas.paste(picture, (left, top))
    return canvas


def fit_within(picture: Image.Image, canvas_size: tuple[int, int]) -> Image.Image:
    """Resized, aspect kept, so that one side fills the canvas and the other, rounded up, fits in it."""
    return picture.resize(fitted_size(picture.size, canvas_size), BICUBIC)


def fitted_size(picture_size: tuple[int, int], canvas_size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) that ``fit_within`` gives a picture."""
    width, height = picture_size
    canvas_width, canvas_height = canvas_size
    if canvas_width / width < canvas_height / height:
        return canvas_width, min(math.ceil(height * canvas_width / width), canvas_height)
    return min(math.ceil(width * canvas_height / height), canvas_width), canvas_height


def smart_resize(picture: Image.Image, *, multiple: int, min_pixels: int, max_pixels: int) -> Image.Image:
    """Resized as :func:`smart_resize_size` says; a picture thinner than ``multiple`` is resized twice."""
    size = smart_resize_size(*picture.size, multiple=multiple, min_pixels=min_pixels, max_pixels=max_pixels)
    enlarged = _at_least(*picture.size, multiple)
    if enlarged != picture.size:
        picture = picture.resize(enlarged, BICUBIC)
    return picture.resize(size, BICUBIC)


def smart_resize_size(
    width: int, height: int, *, multiple: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Width and height as multiples of ``multiple``, aspect kept, ``min_pixels`` to ``max_pixels`` together.

    Source: Qwen2-VL (arXiv:2409.12191), and the enlargement of thin pictures as Kanana-1.5-v does it.

    Raises:
        PictureError: one side is more than 200 times the other.
    """
    shorter, longer = sorted((width, height))
    if longer > LARGEST_RATIO * shorter:
        raise PictureError(
            f"a picture of {width} x {height} pixels: one side is more than {LARGEST_RATIO} times the other, more "
            "than this model reads; crop it or cut it into pieces."
        )
    sides = _at_least(width, height, multiple)
    rounded = tuple(round(side / multiple) * multiple for side in sides)
    if math.prod(rounded) > max_pixels:
        shrink = math.sqrt(math.prod(sides) / max_pixels)
        return tuple(max(math.floor(side / shrink / multiple), 1) * multiple for side in sides)
    if math.prod(rounded) < min_pixels:
        grow = math.sqrt(min_pixels / math.prod(sides))
        return tuple(math.ceil(side * grow / multiple) * multiple for side in sides)
    return rounded


def _at_least(width: int, height: int, shortest: int) -> tuple[int, int]:
    """The size, enlarged until no side is below ``shortest`` pixels."""
    if min(width, height) >= shortest:
        return width, height
    scale = shortest / min(width, height)
    return int(width * scale), int(height * scale)


def normalize(squares: list[Image.Image], config: ImageConfig) -> np.ndarray:
    """``(N, S, S, 3)`` float32: ``(value / 255 - mean) / std``."""
    values = np.stack([np.asarray(square) for square in squares]).astype(np.float32) / 255
    return (values - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
