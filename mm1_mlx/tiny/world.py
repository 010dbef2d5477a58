"""The tiny world: pictures of coloured shapes, letters and digits, each made from a seed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from mm1_mlx.tiny.colors import Paint, make_paint

PICTURE_SIZE = 126  # pixels, each side
OVERSAMPLING = 3  # pictures are drawn this much larger, then averaged down

COLORS = {
    "red": (218, 36, 42),
    "orange": (245, 133, 24),
    "yellow": (248, 214, 20),
    "green": (38, 158, 62),
    "blue": (34, 84, 214),
    "purple": (126, 44, 164),
    "pink": (246, 130, 186),
    "black": (18, 18, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
LETTERS = tuple("ABCDEFGHJKLMNPQRSTUVWXYZ")  # without I and O, which look like 1 and 0
DIGITS = tuple("0123456789")
RADII = {"small": (14, 16), "large": (20, 26)}  # pixels, of the circle around a thing
BACKGROUNDS = (
    *((255, 255, 255), (244, 244, 240), (226, 228, 232), (250, 240, 222), (222, 236, 246)),
    *((206, 206, 202), (224, 240, 222), (238, 226, 240), (176, 182, 190)),
)
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
PLACES = tuple(" ".join(w for w in (row, column) if w) or "middle" for row in ROWS for column in COLUMNS)

TRAINING_SEEDS, TESTING_SEEDS = (
    0,
    1 << 40,
)  # first seed of each kind; training never reaches the seeds of tests
SEED_BITS = 39  # of a seed that is drawn: below all seeds of tests, or above the first of them


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    kind: str  # one of SHAPES, "letter" or "digit"
    symbol: str  # the letter or digit, else ""
    color: str
    size: str  # "small" or "large"
    x: float  # of the centre, in pixels from the left; y from the top
    y: float
    radius: float
    angle: float  # degrees

    @property
    def noun(self) -> str:
        """The noun for the thing, such as "circle", "letter A" or "digit 4"."""
        return f"{self.kind} {self.symbol}" if self.symbol else self.kind

    @property
    def place(self) -> str:
        """The place of the thing by thirds of the picture, such as "top left", "left" or "middle"."""
        row, column = (min(int(3 * v / PICTURE_SIZE), 2) for v in (self.y, self.x))
        return PLACES[3 * row + column]


@dataclass(frozen=True)
class Scene:
    """Things in reading order (by thirds from the top, then from the left) on a plain background."""

    things: tuple[Thing, ...]
    background: Paint


def make_scene(seed: int) -> Scene:
    """Make the scene of ``seed``: one to five things that do not overlap."""
    rng = random.Random(seed)
    background = make_paint(v + rng.randint(-6, 6) for v in rng.choice(BACKGROUNDS))
    number = rng.randint(1, 5)
    while True:
        things = _place_things(rng, number)
        if things is not None:
            break
    things.sort(key=lambda t: (int(t.y * 3 / PICTURE_SIZE), t.x))
    return Scene(tuple(things), background)


def _place_things(rng: random.Random, number: int) -> list[Thing] | None:
    things: list[Thing] = []
    for _ in range(number):
        kind = rng.choices((*SHAPES, "letter", "digit"), (*[1.0] * len(SHAPES), 0.9, 0.7))[0]
        symbol = rng.choice(LETTERS) if kind == "letter" else rng.choice(DIGITS) if kind == "digit" else ""
        size = rng.choice(tuple(RADII))
        radius = rng.uniform(*RADII[size])
        angle = rng.uniform(-10, 10) if kind != "star" else rng.uniform(-36, 36)
        for _ in range(40):
            x, y = (rng.uniform(radius + 1, PICTURE_SIZE - radius - 1) for _ in range(2))
            if all(math.hypot(x - t.x, y - t.y) > radius + t.radius + 2 for t in things):
                break
        else:
            return None
        things.append(Thing(kind, symbol, rng.choice(tuple(COLORS)), size, x, y, radius, angle))
    return things


def render(scene: Scene, *, jitter_seed: int | None = None) -> Image.Image:
    """Draw a scene as an RGB picture of 126 x 126 pixels.

    ``jitter_seed`` varies each colour a little, for training; None draws the colours of the table.
    """
    rng = None if jitter_seed is None else random.Random(jitter_seed)
    side = PICTURE_SIZE * OVERSAMPLING
    picture = Image.new("RGB", (side, side), scene.background)
    draw = ImageDraw.Draw(picture)
    for thing in scene.things:
        color = COLORS[thing.color]
        if rng is not None:
            color = make_paint(v + rng.randint(-14, 14) for v in color)
        _draw_thing(draw, thing, color)
    return picture.reduce(OVERSAMPLING)


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, color: Paint) -> None:
    x, y, r = (OVERSAMPLING * v for v in (thing.x, thing.y, thing.radius))
    if thing.symbol:
        font = _load_font(round(2 * r))
        draw.text(
            (x, y), thing.symbol, fill=color, font=font, anchor="mm", stroke_width=r / 12, stroke_fill=color
        )
    elif thing.kind == "circle":
        draw.ellipse((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=color)
    else:
        turn = math.radians(thing.angle)
        points = [
            (x + r * d * math.sin(a + turn), y - r * d * math.cos(a + turn))
            for d, a in _find_outline(thing.kind)
        ]
        draw.polygon(points, fill=color)


def _find_outline(kind: str) -> list[tuple[float, float]]:
    """Return corners as (distance from the centre, angle in radians clockwise from the top)."""
    if kind == "square":
        return [(1.05, math.pi * (0.25 + 0.5 * k)) for k in range(4)]
    if kind == "triangle":
        return [(1.05, math.pi * 2 * k / 3) for k in range(3)]
    if kind == "diamond":
        return [(1.05 if k % 2 == 0 else 0.72, math.pi * 0.5 * k) for k in range(4)]
    if kind == "star":
        return [(1.1 if k % 2 == 0 else 0.45, math.pi * k / 5) for k in range(10)]
    arm, inner = 1.0, 0.33  # cross: three corners for each arm
    near, far = math.hypot(inner, inner), math.hypot(arm, inner)
    lean = math.atan2(inner, arm)
    return [
        corner
        for k in range(4)
        for corner in (
            (far, math.pi * 0.5 * k - lean),
            (far, math.pi * 0.5 * k + lean),
            (near, math.pi * (0.5 * k + 0.25)),
        )
    ]


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_fonts: dict[int, Font] = {}


def _load_font(size: int) -> Font:
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size)
    return _fonts[size]
