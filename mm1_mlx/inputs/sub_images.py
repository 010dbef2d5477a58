"""High resolution: a picture as several views of the encoder's size.

``quadrants`` is MM1's sub-image decomposition (four crops and the whole) in 360VL's order; ``anyres`` is
LLaVA-NeXT's rule as HyperCLOVAX applies it.

Source: MM1, "Supervised Fine-Tuning" (scaling to higher resolutions).
"""

from __future__ import annotations

from PIL import Image

from mm1_mlx.config import ImageConfig
from mm1_mlx.inputs.preprocess import (
    BICUBIC,
    fit_within,
    pad_to_square,
    paste_centered,
    smart_resize,
    to_square,
)
from mm1_mlx.settings import MAX_PICTURE_PIXELS


def views(
    picture: Image.Image, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> list[Image.Image]:
    """The views of one RGB picture, by ``config.sub_images``; each becomes visual tokens.

    Raises:
        PictureError: the picture is so long and thin that a square of it has more than ``max_pixels``.
    """
    if config.sub_images == "quadrants":
        return quadrants(picture, config, max_pixels=max_pixels)
    if config.sub_images == "anyres":
        return anyres(picture, config)
    if config.resize == "smart":
        limits = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
        return [smart_resize(picture, multiple=config.size_multiple, **limits)]
    return [to_square(picture, config.image_size, config, max_pixels=max_pixels)]


def quadrants(
    picture: Image.Image, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> list[Image.Image]:
    """Padded to a square at twice the size: top left, top right, bottom left, bottom right, whole."""
    size = config.image_size
    large = pad_to_square(picture, config, max_pixels=max_pixels).resize((2 * size, 2 * size), BICUBIC)
    crops = _crops(large, size)
    return [*crops, large.resize((size, size), BICUBIC)]


def anyres(picture: Image.Image, config: ImageConfig) -> list[Image.Image]:
    """The whole picture first, then the crops of the canvas that loses least of it, row by row."""
    size = config.image_size
    whole = paste_centered(fit_within(picture, (size, size)), (size, size), config)
    canvas = best_canvas(picture.size, config)
    return [whole, *_crops(paste_centered(fit_within(picture, canvas), canvas, config), size)]


def best_canvas(picture_size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """(width, height) of the canvas that keeps most pixels, then wastes fewest.

    Canvases are grids of squares of ``image_size`` pixels: ``config.canvases``, or all of at most
    ``max_sub_images`` squares.
    """
    width, height = picture_size
    size, most = config.image_size, config.max_sub_images
    canvases = config.canvases or [
        (rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)
    ]
    best, best_kept, least_wasted = (size, size), -1, 0
    for rows, columns in canvases:
        canvas_width, canvas_height = columns * size, rows * size
        scale = min(canvas_width / width, canvas_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = canvas_width * canvas_height - kept
        if kept > best_kept or (kept == best_kept and wasted < least_wasted):
            best, best_kept, least_wasted = (canvas_width, canvas_height), kept, wasted
    return best


def _crops(canvas: Image.Image, size: int) -> list[Image.Image]:
    """Squares of ``size`` pixels, row by row."""
    return [
        canvas.crop((left, top, left + size, top + size))
        for top in range(0, canvas.height, size)
        for left in range(0, canvas.width, size)
    ]
