"""What a scene of the wider tiny world is: things on a background, in units of its longer side."""

from __future__ import annotations

from dataclasses import dataclass

from mm1_mlx.tiny.backgrounds import Background
from mm1_mlx.tiny.colors import Paint

ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
PLACES = tuple(" ".join(w for w in (row, column) if w) or "middle" for row in ROWS for column in COLUMNS)
DOUBT = 0.045  # of the side: a centre this near to a line between two places counts as in neither
SMALL, LARGE = 0.25, 0.32  # of the longer side: small things are at most this size, large ones at least


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    kind: str  # one of SHAPES, "letter", "digit", "word" or "pictogram"
    text: str  # what a letter, digit or word reads; a pictogram's name; else ""
    color: str  # "" for a pictogram
    size: float  # of the longer side of the picture; a word's is the height of its capitals
    x: float  # of the centre, from the left
    y: float
    angle: float  # degrees, clockwise
    paint: Paint
    stroke: float = 0.0  # width of the outline; 0 for a filled thing
    form: float = 0.0  # proportion, of ``shapes.pick_form``; a word's width for height 1
    face: str = ""  # of a letter, digit or word; a pictogram's set
    code: str = ""  # a pictogram's code points

    @property
    def noun(self) -> str:
        """The noun for the thing, such as "circle", "letter A", "digit 4", "word CAT" or "dog"."""
        if self.kind == "pictogram":
            return self.text
        return f"{self.kind} {self.text}" if self.text else self.kind

    @property
    def size_word(self) -> str:
        """The word for the size of the thing, "small" or "large"."""
        return "small" if self.size <= SMALL else "large"


@dataclass(frozen=True)
class Finish:
    """What happens to a picture once it is drawn."""

    blur: float = 0.0  # of the longer side
    noise: float = 0.0  # share
    quality: int = 0  # of JPEG; 0 for none
    light: float = 1.0  # factor of brightness
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """Things in reading order (by thirds from the top, then from the left) on a background."""

    things: tuple[Thing, ...]
    background: Background
    width: float = 1.0  # of the longer side, as is the height
    height: float = 1.0
    finish: Finish = Finish()

    def place(self, thing: Thing) -> str | None:
        """Return where ``thing`` is, by thirds of the picture; None where two places would both be right."""
        shares = (thing.y / self.height, thing.x / self.width)
        if any(abs(share - line) < DOUBT for share in shares for line in (1 / 3, 2 / 3)):
            return None
        row, column = (min(int(3 * share), 2) for share in shares)
        return PLACES[3 * row + column]


def sort_in_reading_order(things: list[Thing], height: float) -> tuple[Thing, ...]:
    """Sort ``things`` by thirds from the top, then from the left."""
    return tuple(sorted(things, key=lambda t: (min(int(3 * t.y / height), 2), t.x)))
