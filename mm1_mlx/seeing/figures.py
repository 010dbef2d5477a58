"""Drawings of a picture's sub-images, of the responses of visual tokens, and of the attention of an answer's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mm1_mlx.inputs.sub_images import OVERVIEW
from mm1_mlx.seeing.attention import Attended, Word
from mm1_mlx.seeing.boxes import Box, Sight, whole_box
from mm1_mlx.seeing.draw import (
    FAINT,
    INK,
    LARGEST,
    Panel,
    color_of,
    draw_text,
    heat_key,
    join_column,
    sheet,
)

THUMBNAIL = 7  # side of a thumbnail, as a multiple of the height of letters
MOST_THUMBNAILS, MOST_MAPS = 48, 36
COLUMNS = 6  # of maps in a figure
NARROWEST = 640  # pixels; the least width of a figure
LARGEST_CELL = 480  # pixels, each side, of one of several maps
MARGIN, GAP = 24, 14  # pixels


@dataclass(frozen=True)
class HeatMap:
    """Values to draw as heat over a picture."""

    caption: str
    values: list[tuple[Box, float]]
    outlined: tuple[Box, ...] = ()


def sub_images_figure(title: str, picture: Image.Image, views: list[Image.Image], seen: Sight) -> Image.Image:
    """Draw the boxes of all views over the picture, and below it the views as the image encoder reads them."""
    boxes = [view.box for view in seen.views]
    panel, labels, strip = Panel(picture, boxes), [], []
    width = max(panel.size[0], NARROWEST)
    side = THUMBNAIL * _letters(width)
    panel.fade(boxes)
    for number, (view, pixels) in enumerate(zip(seen.views, views, strict=True)):
        whole = view.place == OVERVIEW
        color = INK if whole else color_of(number)
        name, count = f"{number + 1} whole" if whole else f"{number + 1}", f"{seen.tokens_of(number)} tokens"
        labels.append((view.box, (f"{name}: {count}", name, f"{number + 1}"), color, whole))
        if number < MOST_THUMBNAILS:
            small = Panel(pixels, least=side, most=side)
            small.outline(whole_box(pixels.size), color)
            strip.append(join_column([small.image, _note(f"{name}\n{count}", width)], gap=4))
    for box, _, color, whole in sorted(labels, key=lambda label: label[-1]):  # the whole over its crops
        panel.outline(box, color, dashed=whole and len(boxes) > 1)
    for box, words, color, whole in labels:
        panel.label(box, words, color, at_end=whole)
    more = f" (the first {len(strip)} of {len(views)})" if len(strip) < len(views) else ""
    under = _note(f"What the image encoder gets, in order{more}:", width)
    thumbnails = sheet(strip, (width + GAP) // (side + GAP), gap=GAP)
    return _figure(title, [panel.image, *_remarks(panel, seen, width), under, thumbnails], width)


def responses_figure(
    name: str, picture: Image.Image, seen: Sight, maps: dict[int, list[tuple[Box, float]]]
) -> Image.Image:
    """Draw a map of what each visual token responds to, with the outline of the token's own part of the picture."""
    tokens = {number: seen.token(number) for number in maps}
    rows, columns = ({getattr(token, axis) for token in tokens.values()} for axis in ("row", "column"))
    in_grid = len(rows) * len(columns) == len(maps)
    drawn = []
    for number, token in tokens.items():
        where = f", view {token.view + 1}" if len(seen.views) > 1 else ""
        where += f", row {token.row}, column {token.column}" if token.row else ""
        drawn.append(HeatMap(f"token {number}{where}", maps[number], token.boxes))
    columns = len(columns) if in_grid else COLUMNS
    panels = _make_panels(picture, seen, drawn, columns)
    cells = [_draw_map(panel, heat_map) for panel, heat_map in zip(panels, drawn, strict=True)]
    most = "the patch that moves the token most, in each map its own; outlined: the token's own part"
    return _heat_figure(f"{name}: what visual tokens respond to", cells, columns, panels[0], seen, most)


def attention_figure(
    question: str, picture: Image.Image, seen: Sight, attended: Attended, words: Sequence[Word]
) -> Image.Image:
    """Draw a map of what words of an answer attended to, all in one scale of colours, beside the picture.

    Args:
        question: what was asked.
        picture: the picture that the question is about.
        seen: the places of its views and visual tokens.
        attended: the answer.
        words: the words of it to draw.
    """
    drawn = []
    for word in words[:MOST_MAPS]:
        heat = [
            found
            for token, paid in zip(seen.tokens, word.paid.tolist(), strict=True)
            if token is not None
            for found in spread(token.boxes, paid)
        ]
        drawn.append(HeatMap(f'{word.number} "{word.text}" {100 * word.paid.sum():.0f} %', heat))
    columns = min(len(drawn) + 1, COLUMNS)
    panels = _make_panels(picture, seen, [*drawn, None], columns)
    strongest = max(float(panels[0].measure_heat(heat_map.values).max(initial=0.0)) for heat_map in drawn)
    cells = [_caption(panels[-1], "the picture")]
    cells += [_draw_map(panel, one, strongest) for panel, one in zip(panels[:-1], drawn, strict=True)]
    share = strongest * picture.width * picture.height  # of 1 % of the picture's pixels, in %
    more = f" (the first {len(drawn)} of {len(words)} words)" if len(drawn) < len(words) else ""
    most = (
        f"{share:.2g} % of a word's attention on 1 % of the picture, in all maps; "
        "behind each word: what of its attention the picture got"
    )
    title = f"{question}\nAnswer: {attended.text}{more}\nAttention: {attended.source}"
    return _heat_figure(title, cells, columns, panels[0], seen, most)


def spread(boxes: Sequence[Box], weight: float) -> list[tuple[Box, float]]:
    """Spread ``weight`` evenly over ``boxes``, and return for each box the weight of a pixel of the picture."""
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    return [(box, weight / area) for box in boxes]


def _make_panels(picture: Image.Image, seen: Sight, maps: Sequence[Any], columns: int) -> list[Panel]:
    """Make a panel for each map, a large one for a single map."""
    boxes = [view.box for view in seen.views]
    columns = min(columns, len(maps))
    side = min((LARGEST - GAP * (columns - 1)) // columns, LARGEST_CELL)
    size = {"least": side, "most": side} if len(maps) > 1 else {}
    return [Panel(picture, boxes, **size) for _ in maps]


def _draw_map(panel: Panel, heat_map: HeatMap, strongest: float | None = None) -> Image.Image:
    panel.heat(heat_map.values, strongest)
    for box in heat_map.outlined:
        panel.outline(box, INK)
    return _caption(panel, heat_map.caption)


def _caption(panel: Panel, words: str) -> Image.Image:
    width = panel.size[0]
    letters = min(max(max(panel.size) // 15, 14), 22)
    return join_column([panel.image, draw_text(words, size=letters, width=max(width, 240))], gap=6)


def _heat_figure(
    title: str, cells: list[Image.Image], columns: int, panel: Panel, seen: Sight, most: str
) -> Image.Image:
    """Draw maps in rows of at most ``columns``, and below them a key; ``most`` explains the strongest colour."""
    maps = sheet(cells, columns, gap=GAP)
    width = max(maps.width, NARROWEST)
    key = heat_key("0", most, size=_letters(width), width=width)
    return _figure(title, [maps, *_remarks(panel, seen, width), key], width)


def _remarks(panel: Panel, seen: Sight, width: int) -> list[Image.Image]:
    """Draw notes about padding, parts that are not read and stretched pictures, where the panel shows them."""
    found, (across, down) = [], seen.size
    if panel.area != whole_box(seen.size):
        found.append("striped: padding")
    lefts, tops, rights, bottoms = zip(*(view.box for view in seen.views), strict=True)
    if min(lefts) > 0 or min(tops) > 0 or max(rights) < across or max(bottoms) < down:
        found.append("pale: not seen by the model")
    stretch = panel.scale[0] / panel.scale[1]
    if not 0.95 < stretch < 1.05:
        wide = f"{stretch:.1f} times as wide" if stretch > 1 else f"{1 / stretch:.1f} times as high"
        found.append(f"drawn {wide} as it is")
    return [_note("; ".join(found), width)] if found else []


def _figure(title: str, parts: Sequence[Image.Image], width: int) -> Image.Image:
    heading = draw_text(title, size=_letters(width) * 4 // 3, width=width)
    return join_column([heading, *parts], gap=GAP, margin=MARGIN)


def _note(words: str, width: int) -> Image.Image:
    return draw_text(words, size=_letters(width), color=FAINT, width=width)


def _letters(width: int) -> int:
    """Return the height in pixels of letters that can be read in a figure of this width."""
    return max(width // 60, 15)
