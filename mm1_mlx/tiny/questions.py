"""What can be said and asked about a scene of the tiny world: captions, questions, answers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mm1_mlx.tiny.phrases import (
    BRIEF,
    CHECK,
    COLOR,
    COUNT,
    DETAIL,
    EXISTENCE,
    PLACE,
    REGION,
    RELATION,
    SHAPE,
    SINGLE,
    SIZE,
    SYMBOL,
    SYNONYMS,
)
from mm1_mlx.tiny.world import COLORS, PLACES, SHAPES, Scene, Thing

KINDS = ("color", "shape", "count", "existence", "size", "place")
KINDS += ("region", "relation", "symbol", "check", "absent")

RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


@dataclass(frozen=True)
class Question:
    """A question with its one right answer; ``kind`` is one of ``KINDS`` or "caption"."""

    kind: str
    text: str
    answer: str


def article(words: str) -> str:
    """``words`` with "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def joined(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"; "" for no word."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def caption(scene: Scene) -> str:
    """One sentence with every thing in reading order."""
    text = joined([article(f"{t.size} {t.color} {t.noun}") for t in scene.things])
    return text[0].upper() + text[1:] + "."


def detailed_caption(scene: Scene) -> str:
    """The number of things, then each with its place."""
    parts = joined([f"{article(f'{t.size} {t.color} {t.noun}')} at the {t.place}" for t in scene.things])
    number = len(scene.things)
    return f"There {'is 1 object' if number == 1 else f'are {number} objects'}: {parts}."


def make_question(scene: Scene, kind: str, rng: random.Random) -> Question | None:
    """A question of ``kind`` that ``scene`` answers in one way, or None where it cannot."""
    made = _MAKERS[kind](scene, rng)
    if made is None:
        return None
    templates, words, answer = made
    text = rng.choice(templates).format(**words)
    return Question(kind, _vary(text, rng), answer)


def _vary(text: str, rng: random.Random) -> str:
    for word, other in SYNONYMS:
        if word in text and rng.random() < 0.25:
            text = text.replace(word, other, 1)
    chance = rng.random()
    if chance < 0.06:
        text = text.lower()
    elif chance < 0.10:
        text = text.rstrip("?.")
    elif chance < 0.13:
        text = "Please answer: " + text
    elif chance < 0.16:
        text = text + " Answer with one word."
    return text


def _same(scene: Scene, noun: str) -> list[Thing]:
    return [t for t in scene.things if t.noun == noun]


def _unique(scene: Scene, rng: random.Random) -> tuple[Thing, str] | None:
    """A thing and words that mean it alone."""
    options = []
    for thing in scene.things:
        if len(_same(scene, thing.noun)) == 1:
            options += [(thing, thing.noun)] * 3
        if sum(t.noun == thing.noun and t.color == thing.color for t in scene.things) == 1:
            options.append((thing, f"{thing.color} {thing.noun}"))
        if sum(t.color == thing.color for t in scene.things) == 1:
            options.append((thing, f"{thing.color} {rng.choice(('object', 'thing'))}"))
        if thing.symbol and sum(t.kind == thing.kind for t in scene.things) == 1:
            options.append((thing, thing.kind))
    return rng.choice(options) if options else None


def _color(scene: Scene, rng: random.Random):
    if len(scene.things) == 1 and rng.random() < 0.3:
        return SINGLE["color"], {}, scene.things[0].color
    options = [t for t in scene.things if len(_same(scene, t.noun)) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    noun = thing.noun
    if thing.symbol and sum(t.kind == thing.kind for t in scene.things) == 1 and rng.random() < 0.4:
        noun = thing.kind
    elif rng.random() < 0.1:
        noun = f"{thing.size} {noun}"
    return COLOR, {"n": noun}, thing.color


def _shape(scene: Scene, rng: random.Random):
    if len(scene.things) == 1 and rng.random() < 0.3 and not scene.things[0].symbol:
        return SINGLE["shape"], {}, scene.things[0].kind
    options = [t for t in scene.things if sum(u.color == t.color for u in scene.things) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    return SHAPE, {"c": thing.color}, thing.noun


def _count(scene: Scene, rng: random.Random):
    plural = {k: f"{k}s" for k in (*SHAPES, "letter", "digit")} | {"cross": "crosses"}
    choice = rng.random()
    if choice < 0.4:
        return COUNT, {"ns": rng.choice(("objects", "things"))}, str(len(scene.things))
    if choice < 0.5:
        return COUNT, {"ns": "shapes"}, str(sum(not t.symbol for t in scene.things))
    if choice < 0.75:
        kind = rng.choice(scene.things).kind if rng.random() < 0.8 else rng.choice(tuple(plural))
        return COUNT, {"ns": plural[kind]}, str(sum(t.kind == kind for t in scene.things))
    color = rng.choice(scene.things).color if rng.random() < 0.8 else rng.choice(tuple(COLORS))
    if choice < 0.92:
        ns = f"{color} {rng.choice(('objects', 'things'))}"
        return COUNT, {"ns": ns}, str(sum(t.color == color for t in scene.things))
    size = rng.choice(("large", "small"))
    return COUNT, {"ns": f"{size} objects"}, str(sum(t.size == size for t in scene.things))


def _existence(scene: Scene, rng: random.Random):
    """Yes and no alike often; most wrong ones change one attribute of a thing that is there."""
    thing = rng.choice(scene.things)
    with_color = rng.random() < 0.65
    kinds = (*SHAPES, "letter", "digit")
    color, kind = thing.color, thing.kind
    if rng.random() < 0.5:
        answer = "yes"
        if rng.random() < 0.15:
            kind, with_color = rng.choice(("object", "thing")), True
        elif thing.symbol and rng.random() < 0.5:
            kind = thing.noun
    else:
        answer = "no"
        for _ in range(50):
            change = rng.random()
            color = rng.choice(tuple(COLORS)) if with_color and change < 0.6 else thing.color
            kind = rng.choice(kinds) if not with_color or change > 0.4 else thing.kind
            if with_color and change < 0.1:
                kind = rng.choice(("object", "thing"))
            if kind in ("object", "thing"):
                present = any(t.color == color for t in scene.things)
            else:
                present = any(t.kind == kind and (not with_color or t.color == color) for t in scene.things)
            if not present:
                break
        else:
            return None
    noun = f"{color} {kind}" if with_color else kind
    plural = noun + ("es" if noun.endswith("cross") else "s")
    templates = EXISTENCE if " " not in kind else [t for t in EXISTENCE if "{ns}" not in t]
    return templates, {"a": article(noun), "n": noun, "ns": plural}, answer


def _size(scene: Scene, rng: random.Random):
    if len(scene.things) == 1 and rng.random() < 0.3:
        return SINGLE["size"], {}, scene.things[0].size
    unique = _unique(scene, rng)
    return None if unique is None else (SIZE, {"n": unique[1]}, unique[0].size)


def _place(scene: Scene, rng: random.Random):
    unique = _unique(scene, rng)
    return None if unique is None else (PLACE, {"n": unique[1]}, unique[0].place)


def region_question(scene: Scene, place: str, rng: random.Random) -> Question:
    """What stands at ``place``: everything there in reading order, or "nothing"."""
    there = [article(f"{t.size} {t.color} {t.noun}") for t in scene.things if t.place == place]
    return Question("region", _vary(rng.choice(REGION).format(p=place), rng), joined(there) or "nothing")


def _region(scene: Scene, rng: random.Random):
    place = rng.choice(scene.things).place if rng.random() < 0.7 else rng.choice(PLACES)
    question = region_question(scene, place, rng)
    return (question.text,), {}, question.answer


def _relation(scene: Scene, rng: random.Random):
    first, second = _unique(scene, rng), _unique(scene, rng)
    if first is None or second is None or first[0] == second[0]:
        return None
    words = rng.choice(tuple(RELATIONS))
    axis, sign = RELATIONS[words]
    difference = sign * ((first[0].x, first[0].y)[axis] - (second[0].x, second[0].y)[axis])
    if abs(difference) < 12:
        return None
    return RELATION, {"n": first[1], "m": second[1], "r": words}, "yes" if difference > 0 else "no"


def _symbol(scene: Scene, rng: random.Random):
    options = [t for t in scene.things if t.symbol and sum(u.kind == t.kind for u in scene.things) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    name = "number" if thing.kind == "digit" and rng.random() < 0.4 else thing.kind
    return SYMBOL, {"k": name}, thing.symbol


def _check(scene: Scene, rng: random.Random):
    options = [t for t in scene.things if len(_same(scene, t.noun)) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    if rng.random() < 0.5:
        return CHECK, {"n": thing.noun, "c": thing.color}, "yes"
    color = rng.choice([c for c in COLORS if c != thing.color])
    return CHECK, {"n": thing.noun, "c": color}, "no"


def _absent(scene: Scene, rng: random.Random):
    """Asked about a thing that is not there, the answer says so."""
    options = [s for s in SHAPES if not any(t.kind == s for t in scene.things)]
    noun = rng.choice(options)
    (templates,) = rng.choices((COLOR, SIZE, PLACE), (2, 1, 1))
    return templates, {"n": noun}, f"There is no {noun}."


_MAKERS = {
    "color": _color,
    "shape": _shape,
    "count": _count,
    "existence": _existence,
    "size": _size,
    "place": _place,
    "region": _region,
    "relation": _relation,
    "symbol": _symbol,
    "check": _check,
    "absent": _absent,
    "caption": lambda scene, rng: (BRIEF, {}, caption(scene)),
    "detail": lambda scene, rng: (DETAIL, {}, detailed_caption(scene)),
}
