"""Turn an RGB picture into the pixels that an image encoder was trained on, with NumPy and Pillow alone."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from mm1_mlx.config import ImageConfig
from mm1_mlx.errors import PictureError
from mm1_mlx.settings import MAX_PICTURE_PIXELS

BICUBIC = Image.Resampling.BICUBIC
LARGEST_RATIO = 200  # the longer side divided by the shorter, for ``smart_resize``


def to_square(
    picture: Image.Image, size: int, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> Image.Image:
    """Make a picture ``size`` x ``size`` pixels large: stretched, centre-cropped or padded, as ``config.resize`` says.

    Raises:
        PictureError: the picture is so long and thin that a square of it would have more than ``max_pixels``.
    """
    if config.resize == "squash":
        return picture.resize((size, size), BICUBIC)
    if config.resize == "crop":
        return _crop_to_square(picture, size, max_pixels)
    return pad_to_square(picture, config, max_pixels=max_pixels).resize((size, size), BICUBIC)


def _crop_to_square(picture: Image.Image, size: int, max_pixels: int) -> Image.Image:
    """Resize the shorter side to ``size`` and keep the middle, as transformers' ``CLIPImageProcessor`` does."""
    width, height = picture.size
    shorter, longer = sorted((width, height))
    other = int(size * longer / shorter)
    _check_canvas(picture, size, other, max_pixels)
    width, height = (size, other) if width <= height else (other, size)
    picture = picture.resize((width, height), BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def pad_color(config: ImageConfig) -> tuple[int, int, int]:
    """Return the mean colour, which normalises to about 0."""
    red, green, blue = config.mean
    return int(255 * red), int(255 * green), int(255 * blue)


def pad_to_square(
    picture: Image.Image, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> Image.Image:
    """Put ``picture`` in the middle of a square of the mean colour, as wide as its longer side."""
    side = max(picture.size)
    _check_canvas(picture, side, side, max_pixels)
    return paste_centered(picture, (side, side), config)


def _check_canvas(picture: Image.Image, width: int, height: int, max_pixels: int) -> None:
    """Refuse a long and thin picture that would grow too large when it is padded or cropped to a square."""
    if width * height > max_pixels:
        raise PictureError(
            f"a picture of {picture.width} x {picture.height} pixels needs a canvas of {width} x {height} for this "
            f"model, more than the limit of {max_pixels:,} pixels; cut it into pieces or raise `max_pixels`."
        )


def paste_centered(picture: Image.Image, canvas_size: tuple[int, int], config: ImageConfig) -> Image.Image:
    """Put ``picture`` in the middle of a canvas of the mean colour; ``canvas_size`` is (width, height)."""
    canvas = Image.new("RGB", canvas_size, pad_color(config))
    left, top = ((c - p) // 2 for c, p in zip(canvas_size, picture.size, strict=True))
    canvas.paste(picture, (left, top))
    return canvas


def fit_within(picture: Image.Image, canvas_size: tuple[int, int]) -> Image.Image:
    """Resize a picture, keeping its aspect, so that one side fills the canvas and the other, rounded up, fits in it."""
    return picture.resize(fitted_size(picture.size, canvas_size), BICUBIC)


def fitted_size(picture_size: tuple[int, int], canvas_size: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) that ``fit_within`` gives a picture."""
    width, height = picture_size
    canvas_width, canvas_height = canvas_size
    if canvas_width / width < canvas_height / height:
        return canvas_width, min(math.ceil(height * canvas_width / width), canvas_height)
    return min(math.ceil(width * canvas_height / height), canvas_width), canvas_height


def smart_resize(picture: Image.Image, *, multiple: int, min_pixels: int, max_pixels: int) -> Image.Image:
    """Resize a picture to :func:`smart_resize_size`; a picture thinner than ``multiple`` is resized twice."""
    size = smart_resize_size(*picture.size, multiple=multiple, min_pixels=min_pixels, max_pixels=max_pixels)
    enlarged = _enlarge_size(*picture.size, multiple)
    if enlarged != picture.size:
        picture = picture.resize(enlarged, BICUBIC)
    return picture.resize(size, BICUBIC)


def smart_resize_size(
    width: int, height: int, *, multiple: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return a width and height that are multiples of ``multiple`` and have ``min_pixels`` to ``max_pixels`` pixels in
    all.

    The aspect is kept as far as the multiples allow.

    Source: Qwen2-VL (arXiv:2409.12191), and Kanana-1.5-v for the enlargement of thin pictures.

    Raises:
        PictureError: one side is more than 200 times the other.
    """
    shorter, longer = sorted((width, height))
    if longer > LARGEST_RATIO * shorter:
        raise PictureError(
            f"a picture of {width} x {height} pixels: one side is more than {LARGEST_RATIO} times the other, more "
            "than this model reads; crop it or cut it into pieces."
        )
    width, height = _enlarge_size(width, height, multiple)
    columns, rows = round(width / multiple), round(height / multiple)
    if columns * multiple * rows * multiple > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        columns = max(math.floor(width / shrink / multiple), 1)
        rows = max(math.floor(height / shrink / multiple), 1)
    elif columns * multiple * rows * multiple < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        columns, rows = math.ceil(width * grow / multiple), math.ceil(height * grow / multiple)
    return columns * multiple, rows * multiple


def _enlarge_size(width: int, height: int, shortest: int) -> tuple[int, int]:
    """Return the size, enlarged until no side is below ``shortest`` pixels."""
    if min(width, height) >= shortest:
        return width, height
    scale = shortest / min(width, height)
    return int(width * scale), int(height * scale)


def normalize(squares: list[Image.Image], config: ImageConfig) -> np.ndarray:
    """Return pictures of one size as float32 ``(N, H, W, 3)``: ``(value / 255 - mean) / std``."""
    values = np.stack([np.asarray(square) for square in squares]).astype(np.float32) / 255
    return (values - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
