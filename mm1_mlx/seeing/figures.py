"""Drawings of a picture's sub-images, of the responses of visual tokens, and of the attention of an answer's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from mm1_mlx.inputs.sub_images import OVERVIEW
from mm1_mlx.seeing.attention import Word, name_layers
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
    title, most = f"{name}: what visual tokens respond to", "the patch that moves the token most"
    return _heat_figure(title, picture, seen, drawn, len(columns) if in_grid else COLUMNS, most)


def attention_figure(
    question: str, picture: Image.Image, seen: Sight, words: Sequence[Word], layer: int | None = None
) -> Image.Image:
    """Draw a map of what each word of an answer attended to on the picture, in one layer or on average."""
    drawn = []
    for word in words[:MOST_MAPS]:
        heat = [
            found
            for token, paid in zip(seen.tokens, word.paid.tolist(), strict=True)
            if token is not None
            for found in spread(token.boxes, paid)
        ]
        drawn.append(HeatMap(f'{word.number} "{word.text}" {100 * word.paid.sum():.0f} %', heat))
    more = f" (the first {len(drawn)} of {len(words)} words)" if len(drawn) < len(words) else ""
    most = (
        f"where the word attended most, {name_layers(layer)}; %: of all its attention, what the picture got"
    )
    return _heat_figure(f"{question}{more}", picture, seen, drawn, COLUMNS, most)


def spread(boxes: Sequence[Box], weight: float) -> list[tuple[Box, float]]:
    """Spread ``weight`` evenly over ``boxes``, and return for each box the weight of a pixel of the picture."""
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    return [(box, weight / area) for box in boxes]


def _heat_figure(
    title: str, picture: Image.Image, seen: Sight, maps: list[HeatMap], columns: int, most: str
) -> Image.Image:
    """Draw one large map, or several in rows of at most ``columns``; ``most`` explains the strongest colour."""
    columns, boxes = min(columns, len(maps)), [view.box for view in seen.views]
    side = min((LARGEST - GAP * (columns - 1)) // columns, 480)
    size = {"least": side, "most": side} if len(maps) > 1 else {}
    panels = [Panel(picture, boxes, **size) for _ in maps]
    width = max(columns * (panels[0].size[0] + GAP) - GAP, NARROWEST)
    letters = min(_letters(width), max(side // 17, 12))
    drawn = []
    for panel, heat_map in zip(panels, maps, strict=True):
        panel.heat(heat_map.values)
        for box in heat_map.outlined:
            panel.outline(box, INK)
        caption = draw_text(heat_map.caption, size=letters, width=max(panel.size[0], side // 2))
        drawn.append(join_column([panel.image, caption], gap=6))
    key = heat_key("0", most, size=letters)
    return _figure(title, [sheet(drawn, columns, gap=GAP), *_remarks(panels[0], seen, width), key], width)


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
