"""Questions about a scene, each with its one right answer; ``comparing.py`` has those about two pictures."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.nouns import add_article, join_words, list_unknown_nouns, make_plural
from mm1_mlx.tiny.referring import refer, vary_noun
from mm1_mlx.tiny.scene import PLACES, Scene, Thing
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import pictogram_classes
from mm1_mlx.tiny.telling import (
    caption,
    detailed_caption,
    has_pictograms,
    has_words,
    list_things,
    name_with_article,
    phrase,
)
from mm1_mlx.tiny.varying import vary
from mm1_mlx.tiny.wordings import pick_form

RELATIONS = {"left of": (0, -1), "to the left of": (0, -1), "right of": (0, 1), "to the right of": (0, 1)}
RELATIONS |= {"above": (1, -1), "below": (1, 1), "over": (1, -1), "under": (1, 1)}
CLEAR = 0.13  # of the longer side: least difference that makes a thing left of another


@dataclass(frozen=True)
class Question:
    """A question with its right answer."""

    kind: str  # one of ``KINDS`` or ``comparing.KINDS``
    text: str
    answer: str
    also: tuple[str, ...] = ()  # other answers that are as right


@dataclass(frozen=True)
class Asked:
    """What a question maker returns: the form of the question, what fills its slots, and the answer."""

    form: str  # of ``wordings.FORMS``
    answer: str
    slots: Mapping[str, str] | None = None
    also: tuple[str, ...] = ()
    without: str = ""  # a slot that the form must not contain
    keep: tuple[str, ...] = ()  # words in which no typing error may occur


QuestionMaker = Callable[[Scene, random.Random, bool], Asked | None]


def ask(
    kind: str, scene: Scene, rng: random.Random, *, held_out: bool = False, errors: bool = True
) -> Question | None:
    """Return a question of ``kind`` to which ``scene`` has one answer, or None where there is no such question.

    Args:
        kind: one of ``KINDS``.
        scene: what is shown.
        rng: makes the random choices.
        held_out: use wordings, and nouns of things that are not there, that training never uses.
        errors: allow typing errors.
    """
    asked = KINDS[kind](scene, rng, held_out)
    return None if asked is None else word_question(kind, asked, rng, held_out=held_out, errors=errors)


def ask_caption(scene: Scene, rng: random.Random, *, errors: bool = True) -> Question:
    """Return the question for a caption, which every scene has.

    Args:
        scene: what is shown.
        rng: makes the random choices.
        errors: allow typing errors.
    """
    return word_question("caption", _ask_caption(scene, rng, False), rng, held_out=False, errors=errors)


def word_question(kind: str, asked: Asked, rng: random.Random, *, held_out: bool, errors: bool) -> Question:
    """Return the question in one of the wordings of its form."""
    form = pick_form(asked.form, rng, held_out=held_out, without=asked.without)
    text = form.format(**(asked.slots or {}))
    text = text[:1].upper() + text[1:]
    return Question(kind, vary(text, rng, errors=errors, keep=asked.keep), asked.answer, asked.also)


def deny(noun: str) -> str:
    """Return "There is no …", the answer to a question about a thing that is not there."""
    return f"There is no {noun}."


def _ask_color(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    painted = [t for t in scene.things if t.color]
    if len(scene.things) == 1 and painted and rng.random() < 0.3:
        return Asked("single_color", painted[0].color)
    found = refer(scene, rng, color=False)
    if found is None or not found[0].color:
        return None
    return Asked("color", found[0].color, {"n": found[1]})


def _ask_shape(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    if has_pictograms(scene):
        return None
    if len(scene.things) == 1 and scene.things[0].kind in SHAPES and rng.random() < 0.3:
        return Asked(
            "single_shape",
            scene.things[0].kind,
            also=(name_with_article(scene.things[0]), phrase(scene.things[0])),
        )
    options = [t for t in scene.things if sum(u.color == t.color for u in scene.things) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    return Asked(
        "shape",
        thing.noun,
        {"c": thing.color},
        also=(name_with_article(thing), phrase(thing), add_article(thing.noun)),
    )


def _ask_name(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    if len(scene.things) != 1:
        return None
    thing = scene.things[0]
    return Asked(
        "single_name", name_with_article(thing), also=(phrase(thing), thing.noun, add_article(thing.noun))
    )


def _ask_existence(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    if rng.random() < 0.5 and scene.things:
        return _ask_present(scene, rng)
    return _ask_not_present(scene, rng, held_out)


def _ask_present(scene: Scene, rng: random.Random) -> Asked:
    thing = rng.choice(scene.things)
    nouns = [vary_noun(thing.noun, scene, rng)]
    if thing.color:
        nouns.append(phrase(thing))
        nouns.append(f"{thing.color} {rng.choice(('thing', 'object'))}")
    if thing.kind in ("letter", "digit", "word"):
        nouns.append(thing.kind)
    return _ask_whether(rng.choice(nouns), "yes")


def _ask_not_present(scene: Scene, rng: random.Random, held_out: bool) -> Asked:
    """Ask about a thing that is not there: one with a changed attribute, another known thing, or an unknown one."""
    if rng.random() < 0.4:
        return _ask_whether(_pick_unknown(scene, rng, held_out), "no")
    while True:
        color, kind = rng.choice(COLORS), rng.choice((*SHAPES, "letter", "digit", "pictogram"))
        painted = [t for t in scene.things if t.color]
        if painted and rng.random() < 0.6:
            near = rng.choice(painted)
            color, kind = (color, near.kind) if rng.random() < 0.5 else (near.color, kind)
        if kind == "pictogram":
            noun = rng.choice(pictogram_classes("named")).name
            if all(t.noun != noun for t in scene.things):
                return _ask_whether(noun, "no")
            continue
        if kind == "word" or any(t.kind == kind and t.color == color for t in scene.things):
            continue
        if all(t.kind != kind for t in scene.things) and not has_words(scene) and rng.random() < 0.5:
            return _ask_whether(kind, "no")
        if not (has_words(scene) and kind in ("letter", "digit")):
            return _ask_whether(f"{color} {kind}", "no")


def _pick_unknown(scene: Scene, rng: random.Random, held_out: bool) -> str:
    """Return the noun of a thing that no scene shows; it shares no word with what this scene shows."""
    shown = {word for thing in scene.things for word in thing.noun.split()}
    while True:
        noun = rng.choice(list_unknown_nouns(held_out=held_out))
        if shown.isdisjoint(noun.split()):
            return noun


def _ask_whether(noun: str, answer: str) -> Asked:
    slots = {"a": add_article(noun), "n": noun, "ns": make_plural(noun)}
    return Asked("existence", answer, slots, without="{ns}" if " " in noun and noun[-1].isupper() else "")


def _ask_size(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    if min(scene.width, scene.height) < 0.7 or has_words(scene):
        return None
    if len(scene.things) == 1 and rng.random() < 0.3:
        return Asked("single_size", scene.things[0].size_word)
    found = refer(scene, rng, size=False)
    return None if found is None else Asked("size", found[0].size_word, {"n": found[1]})


def _ask_place(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    found = refer(scene, rng)
    if found is None:
        return None
    place = scene.place(found[0])
    return None if place is None else Asked("place", place, {"n": found[1]})


def _ask_region(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    places = [place for thing in scene.things if (place := scene.place(thing)) is not None]
    if len(places) < len(scene.things):
        return None
    place = rng.choice([*places, *places, rng.choice(PLACES)])
    there = tuple(t for t, p in zip(scene.things, places, strict=True) if p == place)
    also = (phrase(there[0]), f"{name_with_article(there[0])}.") if len(there) == 1 else ()
    return Asked("region", list_things(there), {"p": place}, also=also)


def _ask_relation(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    pair = _pick_pair(scene, rng)
    if pair is None:
        return None
    (thing, noun), (other, name) = pair
    words = rng.choice(tuple(RELATIONS))
    axis, sign = RELATIONS[words]
    difference = sign * ((thing.x, thing.y)[axis] - (other.x, other.y)[axis])
    if abs(difference) < CLEAR:
        return None
    return Asked("relation", "yes" if difference > 0 else "no", {"n": noun, "m": name, "r": words})


def _ask_direction(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    """Ask in which of four directions one thing lies from another, where one direction is clear."""
    pair = _pick_pair(scene, rng)
    if pair is None:
        return None
    (thing, noun), (other, name) = pair
    x, y = thing.x - other.x, thing.y - other.y
    far, near = max(abs(x), abs(y)), min(abs(x), abs(y))
    if far < CLEAR or near > 0.5 * far:
        return None
    answer = ("right" if x > 0 else "left") if abs(x) > abs(y) else ("below" if y > 0 else "above")
    also = {"above": ("up", "over"), "below": ("down", "under")}
    sideways = (f"to the {answer}", f"{answer} of it")
    without = "" if answer in ("left", "right") else "left or right"
    return Asked("relative", answer, {"n": noun, "m": name}, also.get(answer, sideways), without)


def _pick_pair(scene: Scene, rng: random.Random) -> tuple[tuple[Thing, str], tuple[Thing, str]] | None:
    """Return two different things, each with words that mean it alone."""
    first, second = refer(scene, rng), refer(scene, rng)
    return None if first is None or second is None or first[0] is second[0] else (first, second)


def _ask_symbol(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    options = [
        t
        for t in scene.things
        if t.kind in ("letter", "digit") and sum(u.kind == t.kind for u in scene.things) == 1
    ]
    if not options or has_words(scene):
        return None
    thing = rng.choice(options)
    kind = rng.choice(("digit", "number")) if thing.kind == "digit" else "letter"
    return Asked("symbol", thing.text, {"k": kind}, also=(thing.noun,))


def _ask_word(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    written = [t for t in scene.things if t.kind == "word"]
    return Asked("word", written[0].text) if len(written) == 1 == len(scene.things) else None


def _ask_check(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    found = refer(scene, rng, color=False)
    if found is None or not found[0].color:
        return None
    thing, noun = found
    if rng.random() < 0.5:
        return Asked("check", "yes", {"n": noun, "c": thing.color})
    return Asked("check", "no", {"n": noun, "c": rng.choice([c for c in COLORS if c != thing.color])})


def _ask_absent(scene: Scene, rng: random.Random, held_out: bool) -> Asked:
    """Ask for the colour, size or place of a thing that is not there."""
    if rng.random() < 0.5:
        noun = _pick_unknown(scene, rng, held_out)
    else:
        names = [*SHAPES, *SHAPES, *(c.name for c in rng.sample(pictogram_classes("named"), 6))]
        noun = rng.choice([n for n in names if all(t.noun != n for t in scene.things)])
        if noun in SHAPES and rng.random() < 0.3:
            noun = f"{rng.choice(COLORS)} {noun}"
    form = rng.choice(("color", "color", "size", "place"))
    return Asked(
        form, deny(noun), {"n": noun}, also=(deny(make_plural(noun)), f"There are no {make_plural(noun)}.")
    )


def _ask_colors(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    kinds = [k for k in SHAPES if sum(t.kind == k for t in scene.things) > 1]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    colors = list(dict.fromkeys(t.color for t in scene.things if t.kind == kind))
    return Asked("colors", join_words(colors), {"ns": make_plural(kind)}, also=(join_words(colors[::-1]),))


def _ask_anything(scene: Scene, rng: random.Random, held_out: bool) -> Asked:
    return Asked("anything", "yes" if scene.things else "no")


def _ask_caption(scene: Scene, rng: random.Random, held_out: bool) -> Asked:
    return Asked("caption", caption(scene))


def _ask_detail(scene: Scene, rng: random.Random, held_out: bool) -> Asked:
    return Asked("detail", detailed_caption(scene))


def _ask_count_all(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    if has_words(scene):
        return None
    return Asked("count", str(len(scene.things)), {"ns": rng.choice(("objects", "things"))})


def _ask_count_some(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    counted = pick_things_to_count(scene, rng)
    return None if counted is None else Asked("count", str(len(counted[1])), {"ns": counted[0]})


def _ask_rationale(scene: Scene, rng: random.Random, held_out: bool) -> Asked | None:
    """Ask for a count that lists the things one by one before it gives their number."""
    counted = ("things", scene.things) if rng.random() < 0.5 else pick_things_to_count(scene, rng)
    if counted is None or has_words(scene):
        return None
    return Asked("rationale", count_aloud(*counted), {"ns": counted[0]})


def count_aloud(nouns: str, things: tuple[Thing, ...]) -> str:
    """Count the things one by one and then give their number: "1 red circle, 2 blue star. So there are 2." """
    steps = ", ".join(f"{number} {phrase(thing)}" for number, thing in enumerate(things, 1))
    return f"{steps}. So there are {len(things)}." if things else f"There are no {nouns}: 0."


def pick_things_to_count(scene: Scene, rng: random.Random) -> tuple[str, tuple[Thing, ...]] | None:
    """Return a plural noun and the things that it means: those of a kind, of a colour or of both; sometimes none."""
    if has_words(scene):
        return None
    ways = ["kind", "kind", "both"] + ["color", "color"] * (not has_pictograms(scene))
    way = rng.choice(ways)
    there = scene.things and rng.random() < 0.85
    near = rng.choice(scene.things) if there else None
    if near is not None and near.kind == "pictogram":
        if add_article(near.text) == near.text:
            return None
        return make_plural(near.text), tuple(t for t in scene.things if t.text == near.text)
    kind = near.kind if near else rng.choice((*SHAPES, "letter", "digit"))
    color = near.color if near else rng.choice(COLORS)
    if way == "color":
        nouns = f"{color} {rng.choice(('objects', 'things'))}"
        return nouns, tuple(t for t in scene.things if t.color == color)
    if way == "both":
        return f"{color} {make_plural(kind)}", tuple(
            t for t in scene.things if (t.kind, t.color) == (kind, color)
        )
    return make_plural(vary_noun(kind, scene, rng)), tuple(t for t in scene.things if t.kind == kind)


KINDS: dict[str, QuestionMaker] = {
    "color": _ask_color,
    "shape": _ask_shape,
    "name": _ask_name,
    "existence": _ask_existence,
    "size": _ask_size,
    "count_all": _ask_count_all,
    "count_some": _ask_count_some,
    "place": _ask_place,
    "region": _ask_region,
    "relation": _ask_relation,
    "relative": _ask_direction,
    "symbol": _ask_symbol,
    "word": _ask_word,
    "check": _ask_check,
    "absent": _ask_absent,
    "colors": _ask_colors,
    "anything": _ask_anything,
    "caption": _ask_caption,
    "detail": _ask_detail,
    "rationale": _ask_rationale,
}
