"""Drawing over pictures, with Pillow and NumPy alone: panels, outlines, heat, captions, sheets, and the file."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from mm1_mlx.errors import PictureError
from mm1_mlx.files.writing import new_file, require_file
from mm1_mlx.inputs.sources import is_path, to_path
from mm1_mlx.seeing.boxes import Box, whole_box

INK, FAINT, PAPER = "#1b1b1f", "#62626c", "#ffffff"
COLORS = ("#d62839", "#1d6fd1", "#1a8a4a", "#d1690a", "#7b3fc4", "#00808a", "#b0267f", "#8a6d00", "#5b5f97")
GOLDEN = 0.618033988749895  # steps of it around a circle never meet
RAMP = ((255, 226, 110), (253, 150, 44), (226, 40, 40), (122, 0, 92))  # of heat, from little to most
SMALLEST, LARGEST = 640, 1600  # pixels, a panel's longer side
PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
THINNEST = 8  # largest ratio of a panel's sides; a thinner picture is drawn wider than it is


def color_of(number: int) -> str:
    """Return the colour of one of many things side by side, from 0; no two have the same."""
    if number < len(COLORS):
        return COLORS[number]
    hue = number * GOLDEN % 1
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.2, 0.7)))


class Panel:
    """A picture, resized for people to look at, with hatched areas where the model's views are padded."""

    def __init__(
        self, picture: Image.Image, boxes: Iterable[Box] = (), *, least: int = SMALLEST, most: int = LARGEST
    ):
        lefts, tops, rights, bottoms = zip(whole_box(picture.size), *boxes, strict=True)
        self.area = (min(lefts), min(tops), max(rights), max(bottoms))
        sides = (self.area[2] - self.area[0], self.area[3] - self.area[1])
        longest = min(max(round(max(sides)), least), most)
        self.size = tuple(max(round(side * longest / max(sides)), longest // THINNEST) for side in sides)
        self.scale = tuple(pixels / side for pixels, side in zip(self.size, sides, strict=True))
        self.image = _draw_stripes(self.size)
        left, top, right, bottom = self.pixels(whole_box(picture.size))
        whole = (max(right - left, 1), max(bottom - top, 1))
        how = Image.Resampling.NEAREST if min(self.scale) >= 2 else Image.Resampling.LANCZOS
        self.image.paste(picture.resize(whole, how), (left, top))
        self.draw = ImageDraw.Draw(self.image)
        self.line = max(longest // 400, 2)

    def pixels(self, box: Box) -> tuple[int, int, int, int]:
        """Convert a box of the picture to the panel's pixels."""
        edges = zip(box, self.area[:2] * 2, self.scale * 2, strict=True)
        left, top, right, bottom = (round((edge - start) * scale) for edge, start, scale in edges)
        return left, top, right, bottom

    def outline(self, box: Box, color: str, *, dashed: bool = False) -> None:
        """Draw a line along the inside of ``box``, with light edges so that it shows on any picture."""
        left, top, right, bottom = self.pixels(box)
        line, corners = self.line, (left, top, max(right - 1, left), max(bottom - 1, top))
        self.draw.rectangle(corners, outline=PAPER, width=line + 2)
        if not dashed:
            if right - left > 2 and bottom - top > 2:
                inner = (corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1)
                self.draw.rectangle(inner, outline=color, width=line)
            return
        dash = 6 * line
        for x in range(left, right, 2 * dash):
            for y in (top + 1, bottom - 1 - line):
                self.draw.rectangle((x, y, min(x + dash, right) - 1, y + line - 1), fill=color)
        for y in range(top, bottom, 2 * dash):
            for x in (left + 1, right - 1 - line):
                self.draw.rectangle((x, y, x + line - 1, min(y + dash, bottom) - 1), fill=color)

    def label(self, box: Box, words: Sequence[str], color: str, *, at_end: bool = False) -> None:
        """Draw the first of ``words`` that fits, or else the last, at the top left or the bottom right of ``box``."""
        left, top, right, bottom = self.pixels(box)
        inset, size = 2 * self.line + 2, 17 + 3 * self.line
        room = (right - left - 2 * inset, bottom - top - 2 * inset)

        def width_of(text: str, height: int) -> int:
            return round(_font(height).getlength(text)) + height

        choices = [(text, size * shrunk // 10) for text in words for shrunk in (10, 8, 6)]
        fitting = (c for c in choices if width_of(*c) <= room[0] and c[1] * 1.5 <= room[1])
        text, height = next(fitting, choices[-1])
        width, tall = width_of(text, height), round(height * 1.5)
        x, y = (right - inset - width, bottom - inset - tall) if at_end else (left + inset, top + inset)
        x, y = min(max(x, 0), self.size[0] - width), min(max(y, 0), self.size[1] - tall)
        self.draw.rounded_rectangle(
            (x, y, x + width, y + tall), tall // 3, fill=color, outline=PAPER, width=1
        )
        self.draw.text((x + width / 2, y + tall / 2), text, PAPER, _font(height), anchor="mm")

    def fade(self, boxes: Iterable[Box]) -> None:
        """Make everything outside of all ``boxes`` pale, because the model does not read it."""
        seen = Image.new("L", self.size, 255 * 7 // 10)
        for box in boxes:
            ImageDraw.Draw(seen).rectangle(self.pixels(box), fill=0)
        self.image.paste(PAPER, (0, 0), seen)

    def measure_heat(self, values: Iterable[tuple[Box, float]]) -> Float[np.ndarray, "h w"]:
        """Return the sum of ``values`` at each pixel; they add up where their boxes overlap."""
        found = np.zeros(self.size[::-1], np.float32)
        for box, value in values:
            left, top, right, bottom = self.pixels(box)
            found[top:bottom, left:right] += value
        return found

    def heat(self, values: Iterable[tuple[Box, float]], strongest: float | None = None) -> None:
        """Turn the picture grey, and draw ``values`` as colours over their boxes.

        Args:
            values: what ``measure_heat`` adds up.
            strongest: the sum with the strongest colour; by default the largest of this panel.
        """
        found = self.measure_heat(values)
        strongest = float(found.max(initial=0)) if strongest is None else strongest
        grey = np.asarray(self.image.convert("L"), np.float32)[..., None] * 0.75 + 64
        self.image = Image.fromarray(draw_heat(grey, found / max(strongest, 1e-12)))
        self.draw = ImageDraw.Draw(self.image)


def heat_key(low: str, high: str, *, size: int, width: int) -> Image.Image:
    """Draw a key to the colours of heat, from ``low`` to ``high``, in letters of ``size``, within ``width`` pixels."""
    length = 14 * size
    bar = Image.fromarray(draw_heat(np.float32(255), np.tile(np.linspace(0, 1, length), (size, 1))))
    ImageDraw.Draw(bar).rectangle((0, 0, length - 1, size - 1), outline=FAINT)
    begin = draw_text(low, size=size, color=FAINT)
    end = draw_text(high, size=size, color=FAINT, width=width - begin.width - length - 16)
    return join_row([begin, bar, end])


def draw_heat(
    grey: Float[np.ndarray, "h w 1"] | np.float32, level: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw heat levels from 0 to 1 over grey; higher levels are more opaque."""
    stops = np.linspace(0, 1, len(RAMP))
    colors = np.stack([np.interp(level, stops, channel) for channel in zip(*RAMP, strict=True)], axis=-1)
    alpha = 0.85 * level[..., None] ** 0.6
    return np.rint((1 - alpha) * grey + alpha * colors).astype(np.uint8)


def draw_text(words: str, *, size: int = 16, color: str = INK, width: int = LARGEST) -> Image.Image:
    """Draw text as an image, in lines of at most ``width`` pixels."""
    font, lines = _font(size), []
    for paragraph in words.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    widest = max(round(font.getlength(line)) + 1 for line in lines)
    image = Image.new("RGB", (max(min(widest, width), 1), round(len(lines) * size * 1.4)), PAPER)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((0, (number + 0.5) * size * 1.4), line, color, font, anchor="lm")
    return image


def join_row(images: Sequence[Image.Image], *, gap: int = 8) -> Image.Image:
    """Join images side by side, aligned at their middles."""
    height = max(image.height for image in images)
    row = Image.new("RGB", (sum(image.width + gap for image in images) - gap, height), PAPER)
    x = 0
    for image in images:
        row.paste(image, (x, (height - image.height) // 2))
        x += image.width + gap
    return row


def join_column(images: Sequence[Image.Image], *, gap: int, margin: int = 0) -> Image.Image:
    """Join images one below the other, aligned at their left sides."""
    width = max(image.width for image in images) + 2 * margin
    column = Image.new("RGB", (width, sum(image.height + gap for image in images) - gap + 2 * margin), PAPER)
    y = margin
    for image in images:
        column.paste(image, (margin, y))
        y += image.height + gap
    return column


def sheet(images: Sequence[Image.Image], columns: int, *, gap: int) -> Image.Image:
    """Join images in rows of ``columns``, in cells of one size."""
    width, height = (max(sides) for sides in zip(*(image.size for image in images), strict=True))
    columns, rows = min(columns, len(images)), -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), PAPER)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        page.paste(image, (column * (width + gap), row * (height + gap)))
    return page


def write_png(image: Image.Image, path: Path) -> None:
    """Write an image as a PNG file, completely or not at all, through a temporary file beside it.

    Raises:
        PictureError: the file cannot be written.
    """
    try:
        with new_file(path, is_kind=_is_png, kind="PNG file") as temporary:
            image.save(temporary, "PNG")
    except OSError as error:
        raise PictureError(f"{path} cannot be written: {error.strerror or error}.") from None


def require_png_place(path: Path) -> None:
    """Refuse a path at which there is something else than a PNG file.

    Raises:
        CheckpointError: it must not be replaced.
    """
    require_file(path, is_kind=_is_png, kind="PNG file")


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PNG)) == PNG


def output_path(given: str | None, source: str, what: str) -> Path:
    """Return the path to write to: ``given``, or one in the current folder named after the picture.

    Args:
        given: the path that the user asked for.
        source: where the picture came from.
        what: what is drawn, as the second part of the name.

    Raises:
        PictureError: the path does not end in .png, its folder does not exist, or it is the picture itself.
        CheckpointError: there is something else than a PNG file.
    """
    named = source != "-" and is_path(source)
    stem = to_path(source).stem if named else "picture"
    path = Path(f"{stem}-{what}.png" if given is None else os.path.expanduser(given))
    if path.suffix.lower() != ".png":
        raise PictureError(f"--output is {path}, expected a name that ends in .png.")
    if path.is_dir():
        raise PictureError(f"--output {path} is a folder; give a file in it.")
    if not path.parent.is_dir():
        raise PictureError(f"--output {path}: there is no folder {path.parent}; make it first.")
    if named and path.exists() and to_path(source).exists() and path.samefile(to_path(source)):
        raise PictureError(f"--output {path} is the picture itself; give another name.")
    require_png_place(path)
    return path


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, so that drawings are the same everywhere."""
    return ImageFont.load_default(size)


def _draw_stripes(size: tuple[int, int]) -> Image.Image:
    """Draw pale stripes, the background of padding."""
    y, x = np.mgrid[: size[1], : size[0]]
    stripes = np.where((x + y) % 16 < 5, 205, 238).astype(np.uint8)
    return Image.fromarray(np.repeat(stripes[..., None], 3, axis=-1))
