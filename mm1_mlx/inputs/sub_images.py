"""High resolution: cut a picture into several views of the encoder's size.

``static`` is MM1's sub-image decomposition and ``dynamic`` MM1.5's dynamic image splitting. ``quadrants`` is
the decomposition in 360VL's order; ``anyres`` is LLaVA-NeXT's rule as HyperCLOVAX applies it.

Source: MM1, "Supervised Fine-Tuning" (scaling to higher resolutions); MM1.5 (arXiv:2409.20566), "Dynamic
Image Splitting".
"""

from __future__ import annotations

from fractions import Fraction

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

OVERVIEW = (0, 0)  # the index of the whole picture; crops count rows and columns from 1
MOST_SPLIT = 2  # with more pictures in a prompt, each is one view instead of being split dynamically


def rule(config: ImageConfig, *, num_images: int = 1) -> str:
    """Return how each of a prompt's ``num_images`` pictures is cut: ``config.sub_images``, or "none" if there are too
    many.
    """
    too_many = config.sub_images == "dynamic" and num_images > MOST_SPLIT
    return "none" if too_many else config.sub_images


def views(
    picture: Image.Image, config: ImageConfig, *, num_images: int = 1, max_pixels: int = MAX_PICTURE_PIXELS
) -> list[Image.Image]:
    """Cut one RGB picture, among ``num_images`` of a prompt, into its views; each view becomes visual tokens.

    Raises:
        PictureError: the picture is so long and thin that a square of it has more than ``max_pixels``.
    """
    cut = rule(config, num_images=num_images)
    if cut == "static":
        return cut_static(picture, config, max_pixels=max_pixels)
    if cut == "dynamic":
        return cut_dynamic(picture, config, max_pixels=max_pixels)
    if cut == "quadrants":
        return cut_quadrants(picture, config, max_pixels=max_pixels)
    if cut == "anyres":
        return cut_anyres(picture, config)
    if config.resize == "smart":
        limits = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
        return [smart_resize(picture, multiple=config.size_multiple, **limits)]
    return [to_square(picture, config.image_size, config, max_pixels=max_pixels)]


def view_indices(
    picture_size: tuple[int, int], config: ImageConfig, *, num_images: int = 1
) -> list[tuple[int, int]]:
    """Return the (row, column) of each view that ``views`` makes, from the picture's (width, height) alone."""
    cut = rule(config, num_images=num_images)
    if cut == "static":
        return [OVERVIEW, *_cells(2, 2)]
    if cut == "quadrants":
        return [*_cells(2, 2), OVERVIEW]
    if cut == "anyres":
        width, height = best_canvas(picture_size, config)
        return [OVERVIEW, *_cells(height // config.image_size, width // config.image_size)]
    if cut == "dynamic":
        cells = _cells(*dynamic_grid(picture_size, config))
        return cells if len(cells) == 1 else [*cells, OVERVIEW]
    return [OVERVIEW]


def cut_static(
    picture: Image.Image, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> list[Image.Image]:
    """Resize to a square of twice the size by ``config.resize``; return the whole of it, then its four crops row by
    row.
    """
    size = config.image_size
    large = to_square(picture, 2 * size, config, max_pixels=max_pixels)
    return [large.resize((size, size), BICUBIC), *_crop_squares(large, size)]


def cut_dynamic(
    picture: Image.Image, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> list[Image.Image]:
    """Return the crops of the grid that suits the picture, row by row, then the whole; of a 1 x 1 grid only the crop.

    The picture keeps its aspect and stands in the middle of the grid, with the mean colour around it.
    """
    size = config.image_size
    rows, columns = dynamic_grid(picture.size, config)
    canvas = (columns * size, rows * size)
    crops = _crop_squares(paste_centered(fit_within(picture, canvas), canvas, config), size)
    return crops if len(crops) == 1 else [*crops, to_square(picture, size, config, max_pixels=max_pixels)]


def dynamic_grid(picture_size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """Choose the (rows, columns) of ``min_sub_images`` to ``max_sub_images`` crops for a picture of (width, height).

    Of the grids that hold the picture without shrinking it, the one with the least padding once it is resized
    to fit is taken; where all would shrink it, the one that shrinks it least. Among equal ones, the one with
    fewer crops, then with fewer rows.
    """
    width, height = picture_size
    size, most = config.image_size, config.max_sub_images
    grids = [
        (rows, columns)
        for rows in range(1, most + 1)
        for columns in range(1, most // rows + 1)
        if rows * columns >= config.min_sub_images
    ]

    def rank(grid: tuple[int, int]) -> tuple[bool, Fraction, int, int]:
        rows, columns = grid
        scale = min(Fraction(columns * size, width), Fraction(rows * size, height))
        padding = rows * columns * size**2 - width * height * scale**2
        return scale < 1, padding if scale >= 1 else -scale, rows * columns, rows

    return min(grids, key=rank)


def cut_quadrants(
    picture: Image.Image, config: ImageConfig, *, max_pixels: int = MAX_PICTURE_PIXELS
) -> list[Image.Image]:
    """Pad to a square of twice the size; return top left, top right, bottom left, bottom right and the whole."""
    size = config.image_size
    large = pad_to_square(picture, config, max_pixels=max_pixels).resize((2 * size, 2 * size), BICUBIC)
    crops = _crop_squares(large, size)
    return [*crops, large.resize((size, size), BICUBIC)]


def cut_anyres(picture: Image.Image, config: ImageConfig) -> list[Image.Image]:
    """Return the whole picture, then the crops, row by row, of the canvas that keeps most of its pixels."""
    size = config.image_size
    whole = paste_centered(fit_within(picture, (size, size)), (size, size), config)
    canvas = best_canvas(picture.size, config)
    return [whole, *_crop_squares(paste_centered(fit_within(picture, canvas), canvas, config), size)]


def best_canvas(picture_size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """Return the (width, height) of the canvas that keeps most pixels, and of those the one that wastes fewest.

    A canvas is a grid of squares of ``image_size`` pixels: one of ``config.canvases``, or any of at most
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


def _cells(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return the (row, column) of a grid's places, counted from 1, row by row."""
    return [(row, column) for row in range(1, rows + 1) for column in range(1, columns + 1)]


def _crop_squares(canvas: Image.Image, size: int) -> list[Image.Image]:
    """Cut a canvas into squares of ``size`` pixels, row by row."""
    return [
        canvas.crop((left, top, left + size, top + size))
        for top in range(0, canvas.height, size)
        for left in range(0, canvas.width, size)
    ]
