"""The place of each view and each visual token on the picture, for every way of cutting a picture.

Views are made by resizing, padding and cropping, so each view shows a rectangle of the picture. The sizes here are
those of ``inputs.preprocess`` and ``inputs.sub_images``; the tests compare them with real views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mm1_mlx.config import ImageConfig, MM1Config
from mm1_mlx.inputs.layout import layout
from mm1_mlx.inputs.preprocess import fitted_size, smart_resize_size
from mm1_mlx.inputs.sub_images import OVERVIEW, rule, view_indices

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright picture
Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class View:
    """One image that the image encoder reads: a crop of the picture, or all of it."""

    place: tuple[int, int]  # row and column among the crops, from 1; or OVERVIEW
    size: Size
    box: Box  # the part of the picture; reaches past its edges where the view is padded
    patch_grid: tuple[int, int]  # rows and columns
    patch_size: int  # pixels, each side

    @property
    def seen(self) -> Box:
        """The part of the picture that the patches cover; pixels past the last whole patch are cut off."""
        (rows, columns), (width, height) = self.patch_grid, self.size
        return part_of(self.box, 0.0, 0.0, columns * self.patch_size / width, rows * self.patch_size / height)

    def patch_boxes(self) -> list[Box]:
        """Return the box of each patch, row by row."""
        return cells(self.seen, *self.patch_grid)


@dataclass(frozen=True)
class Token:
    """One visual token, and its place on the picture."""

    number: int  # from 0, in the order in which the connector makes them
    view: int  # from 0
    row: int = 0  # in its grid, from 1; 0 if it belongs to no part of the picture
    column: int = 0
    boxes: tuple[Box, ...] = ()  # its part of the picture, leaving aside convolutions around the pooling


@dataclass(frozen=True)
class Sight:
    """The views and visual tokens that a model makes of one picture."""

    size: Size
    views: list[View]
    tokens: list[Token | None]  # in reading order; None for the learned end of a row
    num_text: int  # number of text tokens among them

    def token(self, number: int) -> Token:
        """Return a visual token by its number, counted from 1 in reading order.

        Raises:
            ValueError: it is the learned end of a row, which has no place on the picture.
        """
        found = self.tokens[number - 1]
        if found is None:
            raise ValueError(f"visual token {number} is the learned end of a row.")
        return found

    def tokens_of(self, view: int) -> int:
        """Return the number of visual tokens of a view."""
        return sum(token is not None and token.view == view for token in self.tokens)


def _no_text(_: str) -> list[int]:
    return []


def find_sight(
    picture_size: Size, config: MM1Config, *, encode: Callable[[str], list[int]] = _no_text
) -> Sight:
    """Find the views and visual tokens of a picture that is alone in its prompt, from the picture's size.

    Args:
        picture_size: width and height in pixels.
        config: the configuration of the model.
        encode: function that turns text into token ids; without it position tags are not counted.

    Raises:
        PictureError: the picture is too long and thin for the model's way of resizing.
    """
    found = layout(picture_size, config, encode=encode)
    views = view_boxes(picture_size, config)
    made = _make_tokens(views, config)
    order = range(found.num_made) if found.order is None else found.order
    tokens = [None if number < 0 else made[number] for number in order]
    return Sight(picture_size, views, tokens, len(found.ids) - len(tokens))


def view_boxes(picture_size: Size, config: MM1Config) -> list[View]:
    """Return the views of a picture, in the order of ``inputs.sub_images.views``."""
    image = config.image_config
    size = (image.image_size, image.image_size)
    places = view_indices(picture_size, image)
    rows, columns = max(row for row, _ in places), max(column for _, column in places)
    cut = rule(image)
    whole = canvas = whole_box(picture_size)
    if cut == "static":
        whole = canvas = _square_box(picture_size, image, 2 * image.image_size)
    elif cut == "quadrants":
        whole = canvas = _padded_box(picture_size)
    elif cut == "anyres":
        whole, canvas = _fitted_box(picture_size, size), _fitted_box(picture_size, _grid(size, rows, columns))
    elif cut == "dynamic":
        whole = _square_box(picture_size, image, image.image_size)
        canvas = _fitted_box(picture_size, _grid(size, rows, columns))
    elif image.resize == "smart":
        limits = {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels}
        size = smart_resize_size(*picture_size, multiple=image.size_multiple, **limits)
    else:
        whole = _square_box(picture_size, image, image.image_size)
    crops = iter(cells(canvas, rows, columns))
    patch, block = config.vision_config.patch_size, config.vision_config.patch_block
    grid = (size[1] // (patch * block) * block, size[0] // (patch * block) * block)
    return [View(place, size, whole if place == OVERVIEW else next(crops), grid, patch) for place in places]


def whole_box(size: Size) -> Box:
    """Return the box of a whole picture."""
    return 0.0, 0.0, float(size[0]), float(size[1])


def part_of(box: Box, left: float, top: float, right: float, bottom: float) -> Box:
    """Return a part of ``box``, given in fractions of its sides."""
    width, height = box[2] - box[0], box[3] - box[1]
    return box[0] + left * width, box[1] + top * height, box[0] + right * width, box[1] + bottom * height


def cells(box: Box, rows: int, columns: int) -> list[Box]:
    """Cut ``box`` into equal cells, and return them row by row."""
    return [
        part_of(box, column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        for row in range(rows)
        for column in range(columns)
    ]


def _grid(size: Size, rows: int, columns: int) -> Size:
    return size[0] * columns, size[1] * rows


def _square_box(picture_size: Size, image: ImageConfig, size: int) -> Box:
    """Return the part of a picture that ``preprocess.to_square`` shows."""
    width, height = picture_size
    if image.resize == "squash":
        return whole_box(picture_size)
    if image.resize == "pad":
        return _padded_box(picture_size)
    longer = int(size * max(picture_size) / min(picture_size))
    resized = (size, longer) if width <= height else (longer, size)
    return _window(picture_size, resized, (size, size))


def _padded_box(picture_size: Size) -> Box:
    side = max(picture_size)
    return _window(picture_size, picture_size, (side, side))


def _fitted_box(picture_size: Size, canvas: Size) -> Box:
    """Return the part of a picture that a canvas shows after ``preprocess.fit_within`` has resized the picture."""
    return _window(picture_size, fitted_size(picture_size, canvas), canvas)


def _window(picture_size: Size, resized: Size, canvas: Size) -> Box:
    """Return the part of a picture that a canvas shows if the picture is resized, then centred or cropped to it."""
    box = []
    for whole, side, window in zip(picture_size, resized, canvas, strict=True):
        start = (side - window) // 2 if side > window else -((window - side) // 2)
        box.append((start * whole / side, (start + window) * whole / side))
    (left, right), (top, bottom) = box
    return left, top, right, bottom


def _make_tokens(views: list[View], config: MM1Config) -> list[Token]:
    """Return all visual tokens of a picture's views, in the order in which the connector makes them."""
    connector = config.connector_config
    found: list[tuple] = []  # the fields of a token after its number
    for number, view in enumerate(views):
        if connector.type == "attention_pool":
            found += [(number,)] * (connector.num_visual_tokens or 0)
        elif connector.merge_size:
            found += _merge_tokens(number, view, config)
        elif connector.type != "c_abstractor_pair" or number % 5 == 4:
            found += _pool_tokens(number, view.seen, connector.side)
        elif number % 5 == 0:  # the four quadrants, joined to one grid
            found += _pool_tokens(number, views[number + 4].seen, connector.side, joined=True)
        found += [(number,)] * connector.num_extra_tokens
    return [Token(number, *fields) for number, fields in enumerate(found)]


def _pool_tokens(number: int, seen: Box, side: int, *, joined: bool = False) -> list[tuple]:
    """Return the fields of a square of tokens; with ``joined`` views, each belongs to the quadrant of its middle."""
    found = []
    for index, box in enumerate(cells(seen, side, side)):
        row, column = divmod(index, side)
        quadrant = 2 * (2 * row + 1 >= side) + (2 * column + 1 >= side) if joined else 0
        found.append((number + quadrant, row + 1, column + 1, (box,)))
    return found


def _merge_tokens(number: int, view: View, config: MM1Config) -> list[tuple]:
    """Return the fields of a token for every square of patches.

    The connector cuts the squares from the sequence of patches as if these came row by row.
    """
    merge, (height, width) = config.connector_config.merge_size, view.patch_grid
    boxes, order = view.patch_boxes(), block_order(height, width, config.vision_config.patch_block)
    found = []
    for row, column in ((r, c) for r in range(height // merge) for c in range(width // merge)):
        rows, columns = (range(n * merge, (n + 1) * merge) for n in (row, column))
        square = tuple(boxes[order[y * width + x]] for y in rows for x in columns)
        found.append((number, row + 1, column + 1, square))
    return found


def block_order(rows: int, columns: int, block: int) -> list[int]:
    """Return, for each patch in the image encoder's sequence, its place in the grid, counted row by row."""
    return [
        (top + y) * columns + left + x
        for top in range(0, rows, block)
        for left in range(0, columns, block)
        for y in range(block)
        for x in range(block)
    ]
