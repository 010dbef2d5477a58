"""Make scenes from seeds: which things there are, how they look, where they stand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from mm1_mlx.tiny.backgrounds import TONES, Background, make_background
from mm1_mlx.tiny.colors import (
    COLORS,
    CONTRAST,
    SHADES,
    THIN_CONTRAST,
    Paint,
    distance,
    is_visible_on,
    mix_paint,
)
from mm1_mlx.tiny.lettering import DIGITS, LETTERS, list_faces, measure_ratio
from mm1_mlx.tiny.looks import ANY, SHAPES_ALONE, Look, Weights
from mm1_mlx.tiny.scene import LARGE, SMALL, Finish, Scene, Thing, sort_in_reading_order
from mm1_mlx.tiny.shapes import AREA, REACH, SHAPES, TURNS, find_corners, pick_proportion
from mm1_mlx.tiny.stock import SHIPPED, PictogramClass, Split, Stock
from mm1_mlx.tiny.words import pick_word

MARGIN = 0.01  # between a thing and the border
GAP = 0.015  # between things
OVERLAP = 0.3  # where things overlap, the largest share of the smaller one that may be covered
LEAST = {"letter": 0.12, "digit": 0.12, "pictogram": 0.2}  # smaller ones cannot be distinguished
LEAST_OUTLINED = {
    "circle": 0.12,
    "square": 0.12,
    "triangle": 0.15,
    "diamond": 0.16,
    "star": 0.2,
    "cross": 0.2,
}
LEAST_FACES = {"hollow": 0.4, "pixel": 0.2}
STROKES = (0.009, 0.064)  # 1.1 to 8 pixels of 126
SMALLEST = 0.1  # where things would have to be smaller than this to fit, there are fewer of them
WORD_HEIGHTS = (0.1, 0.3)
UPRIGHT = 8  # degrees: the largest lean of a thing that was not turned
TRIES = 30


@dataclass(frozen=True)
class Wish:
    """What a scene should show, where it is not left to chance."""

    kind: str
    text: str = ""
    color: str = ""
    code: str = ""  # a pictogram's code points


def to_wish(thing: Thing) -> Wish:
    """Return the wish that ``thing`` fulfils."""
    return Wish(thing.kind, thing.text, thing.color, thing.code)


def make_scene(
    seed: int,
    look: Look = ANY,
    *,
    stock: Stock = SHIPPED,
    split: Split = "named",
    wishes: tuple[Wish, ...] | None = None,
) -> Scene:
    """Make the scene of ``seed``.

    Args:
        seed: decides everything that is left open; ``TESTING_SEEDS`` and above are for tests.
        look: how often each property occurs.
        stock: pictograms and fonts; a scene has pictograms only where the stock has some of ``split``.
        split: which classes of pictograms may occur.
        wishes: the things to show; None leaves them to ``look``.
    """
    rng = random.Random(seed)
    width, height = _pick_sides(look, rng)
    fixed = wishes is not None
    if wishes is None:
        wishes = _pick_wishes(rng, look, stock, split)
    background = _pick_background(
        look, wishes, stock, rng, {w.color for w in wishes if w.color} if fixed else set()
    )
    things = _Placer(rng, look, stock, background, width, height).place_all(wishes)
    return Scene(
        sort_in_reading_order(things, height), background, width, height, _pick_finish(look, things, rng)
    )


def make_empty_scene(seed: int) -> Scene:
    """Make a scene without things, on a background that shows no clear shape itself."""
    rng = random.Random(seed)
    width, height = _pick_sides(ANY, rng)
    texture = rng.choice(("plain", "plain", "gradient", "radial", "grainy", "cloudy"))
    background = make_background(_pick(ANY.tones, rng), texture, rng)
    return Scene((), background, width, height, _pick_finish(ANY, [], rng))


def _pick_sides(look: Look, rng: random.Random) -> tuple[float, float]:
    if rng.random() >= look.wide:
        return 1.0, 1.0
    short = math.exp(-rng.uniform(math.log(look.least_aspect), math.log(4)))
    return (short, 1.0) if rng.random() < look.upright else (1.0, short)


def _pick_background(
    look: Look, wishes: tuple[Wish, ...], stock: Stock, rng: random.Random, colors: set[str]
) -> Background:
    """Return a background against which the pictograms and things of ``colors``, which are fixed, stand out."""
    codes = {wish.code for wish in wishes if wish.kind == "pictogram"}
    for number in count():
        tone = _pick(look.tones, rng) if number < 2 * TRIES else rng.choice(TONES)
        background = make_background(tone, _pick(look.textures, rng) if number < TRIES else "plain", rng)
        if number == 3 * TRIES - 1:
            return background
        if all(_stands_out(code, background, stock) for code in codes) and all(
            any(is_visible_on(shade, background.palette, THIN_CONTRAST) for shade in SHADES[color])
            for color in colors
        ):
            return background
    raise AssertionError("numbers do not end")


def _stands_out(code: str, background: Background, stock: Stock) -> bool:
    """Tell whether most of a pictogram, in every set, differs from ``background``."""
    for name in stock.sets:
        paints = stock.paints(name, code)
        visible = sum(is_visible_on(paint, background.palette, CONTRAST) for paint in paints)
        if visible < 0.45 * len(paints):
            return False
    return True


def _pick(weights: Weights, rng: random.Random) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _pick_finish(look: Look, things: list[Thing], rng: random.Random) -> Finish:
    fine = any(t.kind == "word" or t.size < 0.13 or 0 < t.stroke < 0.02 for t in things)
    chances = [rng.random() < look.finished for _ in range(4)]
    return Finish(
        blur=rng.uniform(0.002, 0.004 if fine else 0.008) * chances[0],
        noise=rng.uniform(0.02, 0.05 if fine else 0.1) * chances[1],
        quality=rng.randint(60 if fine else 40, 95) * chances[2],
        light=rng.uniform(0.85, 1.1) if chances[3] else 1.0,
        seed=rng.getrandbits(32),
    )


def _pick_wishes(rng: random.Random, look: Look, stock: Stock, split: Split) -> tuple[Wish, ...]:
    """Return what to show; some scenes have few kinds and colours, so that there is something to count."""
    number = rng.choice(look.numbers)
    classes: Sequence[PictogramClass] = stock.classes(split)
    kinds: Weights = {
        kind: w for kind, w in look.kinds.items() if kind != "pictogram" or classes
    } or SHAPES_ALONE
    mixed = [_pick(kinds, rng) for _ in range(number)]
    colors: Sequence[str] = COLORS
    if rng.random() < look.alike:
        few = [_pick(kinds, rng) for _ in range(rng.randint(1, 2))]
        mixed = rng.choices(few, k=number)
        colors = rng.sample(COLORS, rng.randint(1, 3))
        classes = classes and rng.sample(classes, min(2, len(classes)))
    wishes = [_pick_wish(kind, colors, classes, rng) for kind in mixed]
    bare = {
        c.code for c in classes if c.form == "bare"
    }  # at most one of each, for "two breads" is not English
    return tuple(
        w for n, w in enumerate(wishes) if w.code not in bare or w.code not in {v.code for v in wishes[:n]}
    )


def _pick_wish(
    kind: str, colors: Sequence[str], classes: Sequence[PictogramClass], rng: random.Random
) -> Wish:
    if kind == "pictogram":
        pictogram = rng.choice(classes)
        return Wish(kind, pictogram.name, code=pictogram.code)
    texts = {"letter": LETTERS, "digit": DIGITS}
    text = pick_word(rng) if kind == "word" else rng.choice(texts[kind]) if kind in texts else ""
    return Wish(kind, text, rng.choice(colors))


class _Placer:
    """Places the things of one scene, the larger first."""

    def __init__(
        self,
        rng: random.Random,
        look: Look,
        stock: Stock,
        background: Background,
        width: float,
        height: float,
    ):
        self.rng, self.look, self.stock, self.background = rng, look, stock, background
        self.width, self.height = width, height
        self.overlapping = rng.random() < look.overlapping

    def place_all(self, wishes: tuple[Wish, ...]) -> list[Thing]:
        """Place a thing for every wish; things shrink until all fit, and where they cannot, the last are left out."""
        short, area = min(self.width, self.height), self.width * self.height
        most = min(self.look.sizes[1], 0.95 * short, 0.95 * math.sqrt(area / max(1, len(wishes))))
        while True:
            if most < min(SMALLEST, 0.8 * self.look.sizes[1]):
                wishes, most = wishes[:-1], 1.5 * most
            things = [self._make_thing(wish, most) for wish in wishes]
            placed: list[Thing] = []
            for thing in sorted(things, key=lambda t: -t.size):
                spot = self._pick_spot(thing, placed)
                if spot is None:
                    break
                placed.append(spot)
            else:
                return placed
            most *= 0.88

    def _make_thing(self, wish: Wish, most: float) -> Thing:
        """Return the thing as it will look, without a place yet."""
        if wish.kind == "word":
            return self._make_word(wish, most)
        outlined = self.rng.random() < self.look.outlined and LEAST_OUTLINED.get(wish.kind, 9.0) <= most
        least = LEAST_OUTLINED if outlined else LEAST
        size = self._pick_size(least.get(wish.kind, 0.0), most)
        stroke = self._pick_stroke(wish.kind, size) if outlined else 0.0
        face = ""
        if wish.kind == "pictogram":
            face = self.rng.choice(self.stock.sets)
        elif wish.text:
            face = self._pick_face(size)
        color, paint = self._pick_color(wish, thin=outlined or size < 0.14 or bool(wish.text))
        form, angle = pick_proportion(wish.kind, self.rng), self._pick_angle(wish.kind)
        if wish.kind == "diamond" and abs(angle) > UPRIGHT:
            form *= 0.8  # a wide one on its side would look like a square
        return Thing(wish.kind, wish.text, color, size, 0.0, 0.0, angle, paint, stroke, form, face, wish.code)

    def _make_word(self, wish: Wish, most: float) -> Thing:
        """Return a word as a thing without a place, cut short where the whole word would be too small to read."""
        face, text = self._pick_face(0.0), wish.text
        while True:
            width = measure_ratio(text, face, self.stock)
            widest = min(self.width * 0.9 / width, self.height * 0.8, most)
            if widest >= WORD_HEIGHTS[0] or len(text) == 1:
                break
            text = text[:-1]
        size = self.rng.uniform(min(WORD_HEIGHTS[0], widest), min(WORD_HEIGHTS[1], widest))
        angle = (
            self.rng.uniform(-6, 6) if self.rng.random() < 0.3 and width * size < 0.7 * self.width else 0.0
        )
        color, paint = self._pick_color(wish, thin=True)
        return Thing(wish.kind, text, color, size, 0.0, 0.0, angle, paint, 0.0, width, face)

    def _pick_size(self, least: float, most: float) -> float:
        """Return a size, equally likely small or large; no size lies between the two."""
        least = least if least <= self.look.sizes[1] else 0.0  # a look of small print may go below it
        low = max(min(self.look.sizes[0], most), least)
        high = max(low, most)
        bands = [(low, min(high, SMALL))] if low <= SMALL else []
        if high >= LARGE:
            bands.append((max(low, LARGE), high))
        low, high = self.rng.choice(bands) if bands else (LARGE, LARGE)
        return math.exp(self.rng.uniform(math.log(low), math.log(high)))

    def _pick_stroke(self, kind: str, size: float) -> float:
        low, high = STROKES
        high = min(high, size * (0.16 if kind in ("circle", "square") else 0.09))
        return low + max(0.0, high - low) * self.rng.random() ** 1.5  # thin ones more often

    def _pick_face(self, size: float) -> str:
        return self.rng.choice([f for f in list_faces(self.stock) if size >= LEAST_FACES.get(f, 0.0)])

    def _pick_angle(self, kind: str) -> float:
        if kind in ("letter", "digit"):
            return self.rng.uniform(-12, 12) if self.rng.random() < 0.5 else 0.0
        if kind == "pictogram":
            return self.rng.uniform(-25, 25) if self.rng.random() < self.look.turned else 0.0
        if self.rng.random() < self.look.turned:
            return self.rng.uniform(0, TURNS[kind])
        return self.rng.choice((0.0, 0.0, self.rng.uniform(-UPRIGHT, UPRIGHT)))

    def _pick_color(self, wish: Wish, *, thin: bool) -> tuple[str, Paint]:
        """Return a colour and a paint of it that stands out; the wish's own colour where one of its paints does."""
        if wish.kind == "pictogram":
            return "", (0, 0, 0)
        least = THIN_CONTRAST if thin else CONTRAST
        others = [c for c in COLORS if c != wish.color]
        for color in (wish.color, *self.rng.sample(others, len(others))):
            for _ in range(6):
                paint = mix_paint(color, self.rng)
                if is_visible_on(paint, self.background.palette, least):
                    return color, paint
        raise AssertionError("no colour stands out")

    def _pick_spot(self, thing: Thing, placed: list[Thing]) -> Thing | None:
        left, top, right, bottom = measure_extent(thing)
        rooms = (self.width - right + left - 2 * MARGIN, self.height - bottom + top - 2 * MARGIN)
        if min(rooms) < 0:
            return None
        for _ in range(TRIES):
            x = MARGIN - left + self.rng.random() * rooms[0]
            y = MARGIN - top + self.rng.random() * rooms[1]
            if all(self._fit_together(thing, x, y, other) for other in placed):
                return replace(thing, x=x, y=y)
        return None

    def _fit_together(self, thing: Thing, x: float, y: float, other: Thing) -> bool:
        if self.overlapping and thing.kind in SHAPES and other.kind in SHAPES:
            apart = not (thing.stroke or other.stroke) and distance(thing.paint, other.paint) >= CONTRAST
            if apart:
                return measure_overlap(replace(thing, x=x, y=y), other) <= OVERLAP
        return all(
            math.hypot(x + a - u, y + b - v) > r + s + GAP
            for a, b, r in cover_with_circles(thing)
            for u, v, s in cover_with_circles(other)
        )


def measure_extent(thing: Thing) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a thing around its centre."""
    if thing.kind == "circle":
        return (-thing.size / 2, -thing.size / 2, thing.size / 2, thing.size / 2)
    if thing.kind in SHAPES:
        points = find_corners(thing.kind, thing.form, thing.angle)
    else:
        wide = {"word": thing.form / 2 + 0.1, "pictogram": 0.5}.get(thing.kind, 0.55)
        high = {"word": 0.7, "pictogram": 0.5}.get(thing.kind, 0.55)
        turn = math.radians(thing.angle)
        cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
        x, y = wide * cos + high * sin, wide * sin + high * cos
        points = [(-x, -y), (x, y)]
    xs, ys = zip(*points, strict=True)
    return tuple(thing.size * v for v in (min(xs), min(ys), max(xs), max(ys)))


def cover_with_circles(thing: Thing) -> list[tuple[float, float, float]]:
    """Return circles (x, y, radius) that cover a thing."""
    if thing.kind != "word":
        reach = REACH.get(thing.kind, 0.62)
        return [(thing.x, thing.y, reach * thing.size)]
    turn = math.radians(thing.angle)
    half = max(0.0, thing.form / 2 - 0.3)
    steps = [half * (2 * k / 8 - 1) * thing.size for k in range(9)]
    return [(thing.x + s * math.cos(turn), thing.y + s * math.sin(turn), 0.85 * thing.size) for s in steps]


def measure_overlap(thing: Thing, other: Thing) -> float:
    """Return about how much of the smaller thing the circles around both have in common, as a share."""
    d = math.hypot(thing.x - other.x, thing.y - other.y)
    r, s = (REACH[t.kind] * t.size for t in (thing, other))
    least = min(AREA[t.kind] * t.size**2 for t in (thing, other))
    if d >= r + s:
        return 0.0
    if d <= abs(r - s):
        return 1.0
    first = math.acos((d * d + r * r - s * s) / (2 * d * r))
    second = math.acos((d * d + s * s - r * r) / (2 * d * s))
    lens = r * r * (first - math.sin(2 * first) / 2) + s * s * (second - math.sin(2 * second) / 2)
    return min(1.0, lens / least)
