"""Questions about two pictures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mm1_mlx.tiny.asking import Asked, Question, word_question
from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.looks import ANY, Look
from mm1_mlx.tiny.making import Wish, make_scene, to_wish
from mm1_mlx.tiny.nouns import add_article
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import SHIPPED, Stock
from mm1_mlx.tiny.telling import list_things, name_with_article, phrase

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
    """Make two scenes and a question about both.

    Args:
        kind: one of ``KINDS``.
        seed: decides both scenes and the wording.
        look: how the scenes may look.
        stock: pictograms and fonts.
        held_out: use wordings that training never uses.
        errors: allow typing errors.
    """
    rng = random.Random(seed)
    look = replace(look, numbers=FEW, wide=look.wide / 2, kinds={**look.kinds, "word": 0.0})
    while True:
        first = make_scene(rng.getrandbits(62), look, stock=stock)
        made = PAIR_KINDS[kind](first, rng, look, stock)
        if made is not None:
            second, asked = made
            return (first, second), word_question(kind, asked, rng, held_out=held_out, errors=errors)


def _remake(
    first: Scene, rng: random.Random, look: Look, stock: Stock, change: Callable[[list[Wish]], None]
) -> Scene:
    """Make another scene with the things of ``first``, after ``change`` has edited their list."""
    wishes = [to_wish(thing) for thing in first.things]
    change(wishes)
    rng.shuffle(wishes)
    return make_scene(rng.getrandbits(62), look, stock=stock, wishes=tuple(wishes))


def _count_names(scene: Scene) -> Counter[str]:
    return Counter(phrase(thing) for thing in scene.things)


def _pick_new_wish(rng: random.Random) -> Wish:
    return Wish(rng.choice(SHAPES), color=rng.choice(COLORS))


def _ask_same(first: Scene, rng: random.Random, look: Look, stock: Stock) -> tuple[Scene, Asked] | None:
    """Ask whether two pictures show the same things; the second moves them, and often changes one."""
    if rng.random() < 0.5:
        second = first if rng.random() < 0.2 else _remake(first, rng, look, stock, lambda wishes: None)
    else:
        second = _remake(first, rng, look, stock, lambda wishes: _change_one(wishes, rng))
    alike = _count_names(first) == _count_names(second)
    return second, Asked("same", "yes" if alike else "no", also=("same",) if alike else ("different",))


def _change_one(wishes: list[Wish], rng: random.Random) -> None:
    place = rng.randrange(len(wishes))
    change = rng.choice(("swap", "swap", "drop", "add"))
    if change == "drop" and len(wishes) > 1:
        wishes.pop(place)
    elif change == "add":
        wishes.append(_pick_new_wish(rng))
    else:
        wishes[place] = _pick_new_wish(rng)


def _ask_more(first: Scene, rng: random.Random, look: Look, stock: Stock) -> tuple[Scene, Asked] | None:
    second = make_scene(rng.getrandbits(62), look, stock=stock)
    numbers = len(first.things), len(second.things)
    if numbers[0] == numbers[1]:
        return None
    answer = "the first" if numbers[0] > numbers[1] else "the second"
    return second, Asked("more", answer, also=(f"{answer} picture", f"{answer} one"))


def _ask_which(first: Scene, rng: random.Random, look: Look, stock: Stock) -> tuple[Scene, Asked] | None:
    second = make_scene(rng.getrandbits(62), look, stock=stock)
    answer = rng.choice(("the first", "the second"))
    has, lacks = (first, second) if answer == "the first" else (second, first)
    thing = rng.choice(has.things)
    noun = thing.noun if rng.random() < 0.5 or not thing.color else phrase(thing)
    if noun in {words for t in lacks.things for words in (t.noun, phrase(t))}:
        return None
    also = (f"{answer} picture", f"{answer} one")
    return second, Asked("which", answer, {"a": add_article(noun), "n": noun}, also)


def _ask_new(first: Scene, rng: random.Random, look: Look, stock: Stock) -> tuple[Scene, Asked] | None:
    """Ask which thing is new in a second picture, which has all things of the first and one more."""
    second = _remake(first, rng, look, stock, lambda wishes: wishes.append(_pick_new_wish(rng)))
    new = _count_names(second) - _count_names(first)
    if (
        sum(new.values()) != 1
        or _count_names(first) - _count_names(second)
        or next(iter(new)) in _count_names(first)
    ):
        return None
    thing = next(t for t in second.things if phrase(t) in new)
    return second, Asked("new", name_with_article(thing), also=(phrase(thing), list_things((thing,))))


PairMaker = Callable[[Scene, random.Random, Look, Stock], tuple[Scene, Asked] | None]
PAIR_KINDS: dict[str, PairMaker] = {
    "same": _ask_same,
    "more": _ask_more,
    "which": _ask_which,
    "new": _ask_new,
}
