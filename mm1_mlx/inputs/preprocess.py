"""From an RGB picture to the pixels an image encoder was trained on. NumPy and Pillow only."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from mm1_mlx.config import ImageConfig
from mm1_mlx.errors import PictureError
from mm1_mlx.settings import MAX_PICTURE_PIXELS

BICUBIC = Image.Resampling.BICUBIC


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
            f"model, more than the limit of {max_pixels:,} pixels; cut it into pieces or raise --max-image-pixels."
        )


def paste_centered(picture: Image.Image, canvas_size: tuple[int, int], config: ImageConfig) -> Image.Image:
    """``picture`` in the middle of a canvas of the mean colour; ``canvas_size`` is (width, height)."""
    canvas = Image.new("RGB", canvas_size, pad_color(config))
    left, top = ((c - p) // 2 for c, p in zip(canvas_size, picture.size, strict=True))
    canvas.paste(picture, (left, top))
    return canvas


def fit_within(picture: Image.Image, canvas_size: tuple[int, int]) -> Image.Image:
    """Resized, aspect kept, so that one side fills the canvas and the other, rounded up, fits in it."""
    width, height = picture.size
    canvas_width, canvas_height = canvas_size
    if canvas_width / width < canvas_height / height:
        size = (canvas_width, min(math.ceil(height * canvas_width / width), canvas_height))
    else:
        size = (min(math.ceil(width * canvas_height / height), canvas_width), canvas_height)
    return picture.resize(size, BICUBIC)


def normalize(squares: list[Image.Image], config: ImageConfig) -> np.ndarray:
    """``(N, S, S, 3)`` float32: ``(value / 255 - mean) / std``."""
    values = np.stack([np.asarray(square) for square in squares]).astype(np.float32) / 255
    return (values - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
