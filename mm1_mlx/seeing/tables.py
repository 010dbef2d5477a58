"""Tables of the same content as the drawings."""

from __future__ import annotations

from collections.abc import Sequence

from mm1_mlx.inputs.sub_images import OVERVIEW
from mm1_mlx.seeing.attention import Word, name_layers
from mm1_mlx.seeing.boxes import Box, Sight


def views_table(seen: Sight, context: int | None) -> str:
    """Return a table of the place of each view on the picture and of its visual tokens."""
    lines = [f"{'view':>4} {'row':>5} {'column':>6}  {'pixels of the picture':38} {'visual tokens':>13}"]
    for number, view in enumerate(seen.views):
        row, column = ("whole", "") if view.place == OVERVIEW else view.place
        lines.append(
            f"{number + 1:4} {row:>5} {column:>6}  {_pixels([view.box]):38} {seen.tokens_of(number):13,}"
        )
    total = len(seen.tokens)
    ends = sum(token is None for token in seen.tokens)
    for what, count in (("ends of rows", ends), ("text tokens between", seen.num_text)):
        if count:
            lines.append(f"{what:56} {count:13,}")
    share = "" if context is None else f", {100 * (total + seen.num_text) / context:.1f} % of the context"
    lines.append(f"{total + seen.num_text:,} tokens{share}")
    return "\n".join(lines)


def responses_table(seen: Sight, maps: dict[int, list[tuple[Box, float]]]) -> str:
    """Return a table of each token's part of the picture, and of the share of its response that comes from there."""
    lines = [
        f"{'token':>5} {'view':>4} {'row':>4} {'column':>6}  {'its part of the picture':38} {'of its response':>15}"
    ]
    for number, values in maps.items():
        token = seen.token(number)
        row, column = (token.row, token.column) if token.row else ("", "")
        place = _pixels(token.boxes) if token.boxes else "none of its own"
        share = f"{100 * _share_inside(values, token.boxes):.1f} %" if token.boxes else ""
        lines.append(f"{number:5} {token.view + 1:4} {row:>4} {column:>6}  {place:38} {share:>15}".rstrip())
    return "\n".join(lines)


def words_table(words: Sequence[Word], seen: Sight, layer: int | None = None) -> str:
    """Return a table of the share of each word's attention that went to the picture, and of its strongest token.

    ``layer`` is the one whose attention it is; None means the average of all.
    """
    widest = max(len(word.text) for word in words)
    lines = [f"word {'':{widest}} {'on the picture':>15}  most at ({name_layers(layer)})"]
    for word in words:
        most = int(word.paid.argmax())
        token = seen.tokens[most]
        where = (
            f"token {most + 1}, the end of a row"
            if token is None
            else f"token {most + 1}, view {token.view + 1}"
        )
        if token is not None and token.row:
            where += f", row {token.row}, column {token.column}"
        lines.append(f"{word.number:4} {word.text:{widest}} {100 * word.paid.sum():13.1f} %  {where}")
    return "\n".join(lines)


def _pixels(boxes: list[Box] | tuple[Box, ...]) -> str:
    left, top = (min(box[axis] for box in boxes) for axis in (0, 1))
    right, bottom = (max(box[axis] for box in boxes) for axis in (2, 3))
    return f"x {left:.1f} to {right:.1f}, y {top:.1f} to {bottom:.1f}"


def _share_inside(values: list[tuple[Box, float]], boxes: tuple[Box, ...]) -> float:
    """Return the share of all ``values`` whose boxes have their middle inside one of ``boxes``."""
    inside = 0.0
    for (left, top, right, bottom), value in values:
        x, y = (left + right) / 2, (top + bottom) / 2
        inside += value * any(a <= x < c and b <= y < d for a, b, c, d in boxes)
    return inside / sum(value for _, value in values)
