"""Questions about two pictures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mm1_mlx.tiny.asking import Asked, Question, worded
from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.looks import ANY, Look
from mm1_mlx.tiny.making import Wish, make_scene, wished
from mm1_mlx.tiny.nouns import article
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import SHIPPED, Stock
from mm1_mlx.tiny.telling import listed, one, phrase

FEW = (1, 1, 2, 2, 3, 3, 4)  # things in the first picture
Pair = tuple[Scene, Scene]


def compare(
    kind: str,
    seed: int,
    *,
    look: Look = ANY,
    stock: Stock = SHIPPED,
    held_out: bool = False,
    errors: bool = True,
) -> tuple[Pair, Question]:
    """Return two scenes and a question about both.

    Args:
        kind: one of ``KINDS``.
        seed: decides both scenes and the wording.
        look: of the scenes.
        stock: pictograms and fonts.
        held_out: use wordings that training never uses.
        errors: allow typing errors.
    """
    rng = random.Random(seed)
    look = replace(look, numbers=FEW, wide=look.wide / 2, kinds={**look.kinds, "word": 0.0})
    while True:
        first = make_scene(rng.getrandbits(62), look, stock=stock)
        made = KINDS[kind](first, rng, look, stock)
        if made is not None:
            second, asked = made
            return (first, second), worded(kind, asked, rng, held_out=held_out, errors=errors)


def _like(
    first: Scene, rng: random.Random, look: Look, stock: Stock, change: Callable[[list[Wish]], None]
) -> Scene:
    """Return another scene with the things of ``first`` after a change."""
    wishes = [wished(thing) for thing in first.things]
    change(wishes)
    rng.shuffle(wishes)
    return make_scene(rng.getrandbits(62), look, stock=stock, wishes=tuple(wishes))


def _names(scene: Scene) -> Counter[str]:
    return Counter(phrase(thing) for thing in scene.things)


def _new_wish(rng: random.Random) -> Wish:
    return Wish(rng.choice(SHAPES), color=rng.choice(COLORS))


def _same(first: Scene, rng: random.Random, look: Look, stock: Stock) -> tuple[Scene, Asked] | None:
    """Show the same things at other places, or all but one the same."""
    if rng.random() < 0.5:
        second = first if rng.random() < 0.2 else _like(first, rng, look, stock, lambda wishes: None)
    else:
        second = _like(first, rng, look, stock, lambda wishes: _change_one(wishes, rng))
    alike = _names(first) == _names(second)
    return second, Asked("same", "yes" if alike else "no", also=("same",) if alike else ("different",))


def _change_one(wishes: list[Wish], rng: random.Random) -> None:
    place = rng.randrange(len(wishes))
    change = rng.choice(("swap", "swap", "drop", "add"))
    if change == "drop" and len(wishes) > 1:
        wishes.pop(place)
    elif change == "add":
        wishes.append(_new_wish(rng))
    else:
        wishes[place] = _new_wish(rng)


def _more(first: Scene, rng: random.Random, look: Look, stock: Stock) -> tuple[Scene, Asked] | None:
    second = make_scene(rng.getrandbits(62), look, stock=stock)
    numbers = len(first.things), len(second.things)
    if numbers[0] == numbers[1]:
        return None
    answer = "the first" if numbers[0] > numbers[1] else "the second"
    return second, Asked("more", answer, also=(f"{answer} picture", f"{answer} one"))


def _which(first: Scene, rng: random.Random, look: Look, stock: Stock) -> tuple[Scene, Asked] | None:
    second = make_scene(rng.getrandbits(62), look, stock=stock)
    answer = rng.choice(("the first", "the second"))
    has, lacks = (first, second) if answer == "the first" else (second, first)
    thing = rng.choice(has.things)
    noun = thing.noun if rng.random() < 0.5 or not thing.color else phrase(thing)
    if noun in {words for t in lacks.things for words in (t.noun, phrase(t))}:
        return None
    also = (f"{answer} picture", f"{answer} one")
    return second, Asked("which", answer, {"a": article(noun), "n": noun}, also)


def _new(first: Scene, rng: random.Random, look: Look, stock: Stock) -> tuple[Scene, Asked] | None:
    """Add a thing, whose name is new, to a copy of the first picture's things, or to the picture itself."""
    second = _like(first, rng, look, stock, lambda wishes: wishes.append(_new_wish(rng)))
    new = _names(second) - _names(first)
    if sum(new.values()) != 1 or _names(first) - _names(second) or next(iter(new)) in _names(first):
        return None
    thing = next(t for t in second.things if phrase(t) in new)
    return second, Asked("new", one(thing), also=(phrase(thing), listed((thing,))))


Maker = Callable[[Scene, random.Random, Look, Stock], tuple[Scene, Asked] | None]
KINDS: dict[str, Maker] = {"same": _same, "more": _more, "which": _which, "new": _new}
