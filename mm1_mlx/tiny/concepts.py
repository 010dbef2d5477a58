"""What can be given a name: a pictogram, a coloured shape, a shape, a colour, a letter. Each has many pictures."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from PIL import Image

from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.lettering import DIGITS, LETTERS
from mm1_mlx.tiny.looks import ANY
from mm1_mlx.tiny.making import Wish, make_scene
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import SHIPPED, Stock
from mm1_mlx.tiny.world import SEED_BITS, TESTING_SEEDS

Family = Literal["pictogram", "colored shape", "shape", "color", "letter", "digit"]
EXEMPLARS = (
    64  # pictures of each concept in training; they are few, so that their visual tokens can be cached
)
ALONE = replace(ANY, sizes=(0.32, 0.9), wide=0.05, outlined=0.15, finished=0.15)
WEIGHTS: dict[Family, float] = {
    **{"pictogram": 6.0, "colored shape": 2.5, "shape": 0.8, "color": 0.8, "letter": 0.5, "digit": 0.4}
}


@dataclass(frozen=True)
class Concept:
    """Something that many pictures show, whatever else differs between them."""

    family: Family
    text: str = ""  # a letter, a digit, a pictogram's name
    shape: str = ""
    color: str = ""
    code: str = ""  # a pictogram's code points

    @property
    def description(self) -> str:
        """The words for the concept in a caption: "red circle", "letter A", "dog"."""
        if self.family in ("letter", "digit"):
            return f"{self.family} {self.text}"
        return self.text or f"{self.color} {self.shape}".strip()

    def make_wish(self, rng: random.Random) -> Wish:
        """Return a wish for a thing that shows the concept; what the concept leaves open is random."""
        if self.family == "pictogram":
            return Wish("pictogram", self.text, code=self.code)
        kind = self.family if self.text else self.shape or rng.choice(SHAPES)
        return Wish(kind, self.text, self.color or rng.choice(COLORS))


@lru_cache(maxsize=64)
def list_concepts(family: Family, stock: Stock = SHIPPED, *, held_out: bool = False) -> tuple[Concept, ...]:
    """Return the concepts of a family: those for training, or those for tests if ``held_out``.

    Only pictograms and coloured shapes have concepts for tests.
    """
    if family == "pictogram":
        splits = ("held-out",) if held_out else ("named", "unnamed")
        classes = [c for split in splits for c in stock.classes(split)]
        return tuple(Concept(family, c.name, code=c.code) for c in classes)
    if family == "colored shape":
        pairs = [(shape, color) for shape in SHAPES for color in COLORS]
        return tuple(
            Concept(family, shape=shape, color=color)
            for shape, color in pairs
            if _is_kept_for_tests(shape, color) == held_out
        )
    if held_out:
        return ()
    if family == "shape":
        return tuple(Concept(family, shape=shape) for shape in SHAPES)
    if family == "color":
        return tuple(Concept(family, color=color) for color in COLORS)
    return tuple(Concept(family, text=text) for text in (LETTERS if family == "letter" else DIGITS))


def pick_concepts(
    number: int,
    rng: random.Random,
    *,
    stock: Stock = SHIPPED,
    family: Family | None = None,
    held_out: bool = False,
) -> list[Concept]:
    """Return ``number`` different random concepts of one family; the family is random too where it is None."""
    families: list[Family] = [f for f in WEIGHTS if len(list_concepts(f, stock, held_out=held_out)) >= number]
    if family is None:
        family = rng.choices(families, [WEIGHTS[f] for f in families])[0]
    return rng.sample(list_concepts(family, stock, held_out=held_out), number)


def make_exemplar(concept: Concept, number: int, *, stock: Stock = SHIPPED, test: bool = False) -> Scene:
    """Make a scene that has one thing alone, which shows ``concept``.

    Args:
        concept: what to show.
        number: the number of the scene; training uses those below ``EXEMPLARS``.
        stock: pictograms and fonts.
        test: make a scene that training never shows.
    """
    rng = random.Random(f"{concept.description} {number}")
    seed = rng.randrange(1 << SEED_BITS) + TESTING_SEEDS * test
    for attempt in range(20):
        scene = make_scene(seed + attempt, ALONE, stock=stock, wishes=(concept.make_wish(rng),))
        if scene.things and concept.color in ("", scene.things[0].color):
            return scene
    raise AssertionError(f"{concept} can be drawn on no background")


@lru_cache(maxsize=4096)
def draw_exemplar(concept: Concept, number: int, stock: Stock = SHIPPED) -> Image.Image:
    """Draw a scene of ``make_exemplar`` for training; a cache keeps it for the next document that shows it."""
    return draw_scene(make_exemplar(concept, number, stock=stock), stock=stock)


def _is_kept_for_tests(shape: str, color: str) -> bool:
    """Tell whether a coloured shape is kept for tests: one in six, two of each shape and one of each colour."""
    return (COLORS.index(color) - 2 * SHAPES.index(shape)) % len(COLORS) in (0, 1)
