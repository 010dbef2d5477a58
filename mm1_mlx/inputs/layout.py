"""Find where one picture's visual tokens stand in the sequence, from its size alone, before it is encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mm1_mlx.config import MM1Config
from mm1_mlx.inputs.preprocess import smart_resize_size
from mm1_mlx.inputs.sub_images import view_indices


@dataclass(frozen=True)
class Layout:
    """The positions of the sequence that one picture takes."""

    ids: list[int]  # the image token for every visual token; text tokens between, where the model has them
    num_made: int  # visual tokens that the connector makes of the picture's views
    order: list[int] | None = (
        None  # their numbers in the order of the sequence, -1 for the end of a row; None keeps their order
    )

    @property
    def num_visual_tokens(self) -> int:
        """Visual tokens in the sequence, without the text between them (position tags, tokens between rows)."""
        return self.num_made if self.order is None else len(self.order)


def layout(
    picture_size: tuple[int, int],
    config: MM1Config,
    *,
    num_images: int = 1,
    picture_number: int = 0,
    encode: Callable[[str], list[int]] | None = None,
) -> Layout:
    """Return the layout of a picture of ``picture_size``, (width, height) in pixels.

    Args:
        picture_size: width and height of the upright picture.
        config: the model's configuration.
        num_images: pictures in the prompt; from three on, dynamic splitting is off.
        picture_number: number of this picture among them, from 0, for its position tags.
        encode: turns text into token ids; needed where the model has position tags.

    Raises:
        PictureError: the picture is too long and thin for the model's way of resizing.
    """
    image, connector, token = config.image_config, config.connector_config, config.image_token_id
    if image.resize == "smart":
        return _layout_rows(picture_size, config)
    indices = view_indices(picture_size, image, num_images=num_images)
    made = connector.num_tokens(*config.patch_grid) * len(indices) // connector.views_at_once
    if image.sub_images == "anyres":
        rows, columns = indices[-1]
        order = _join_crops(picture_size, rows, columns, connector.side, unpad=image.unpad)
        return Layout([token] * len(order), made, order)
    if image.position_tags == "none" or len(indices) == 1:
        return Layout([token] * made, made)
    if encode is None:
        raise ValueError(f"position_tags {image.position_tags} are text; give encode.")
    ids = []
    for row, column in indices:
        ids += [*encode(f"({picture_number},{row},{column})"), *[token] * (made // len(indices))]
    return Layout(ids, made)


def _layout_rows(picture_size: tuple[int, int], config: MM1Config) -> Layout:
    """Return Kanana's layout: a text token before the picture and between its rows of visual tokens."""
    image, token, row_token = config.image_config, config.image_token_id, config.prompt_config.row_token_id
    width, height = smart_resize_size(
        *picture_size,
        multiple=image.size_multiple,
        min_pixels=image.min_pixels,
        max_pixels=image.max_pixels,
    )
    patch_size = config.vision_config.patch_size
    made = config.connector_config.num_tokens(height // patch_size, width // patch_size)
    if row_token is None:
        return Layout([token] * made, made)
    columns = width // patch_size // config.connector_config.merge_size
    ids = []
    for start in range(0, made, columns):
        ids += [row_token] + [token] * min(columns, made - start)
    return Layout(ids, made)


def _join_crops(
    picture_size: tuple[int, int], rows: int, columns: int, side: int, *, unpad: bool
) -> list[int]:
    """Return HyperCLOVAX's order: the whole picture's tokens, then those of the crops joined to one map, line by line.

    Each crop has ``side`` x ``side`` tokens. With ``unpad``, lines and columns of the map that only pad the
    picture are dropped by LLaVA-NeXT's rule, in whole tokens, and the end of a row closes each line.
    Of a picture thinner than a token, only the ends of rows may be left after the tokens of the whole picture.
    """
    width, height = picture_size
    map_width, map_height = columns * side, rows * side
    top = left = 0
    if unpad and width / height > map_width / map_height:
        top = (map_height - int(height * (map_width / width))) // 2
    elif unpad:
        left = (map_width - int(width * (map_height / height))) // 2
    order = list(range(side * side))
    for y in range(top, map_height - top):
        for x in range(left, map_width - left):
            crop = 1 + (y // side) * columns + x // side
            order.append((crop * side + y % side) * side + x % side)
        order += [-1] * unpad
    return order
