"""What can be said and asked about a scene of the tiny world: captions, questions, answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
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

Made = tuple[Sequence[str], dict[str, str], str]  # wordings, what fills their slots, the answer
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


@dataclass(frozen=True)
class Question:
    """A question with its one right answer; ``kind`` is one of ``KINDS`` or "caption"."""

    kind: str
    text: str
    answer: str


def add_article(words: str) -> str:
    """Return ``words`` with "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def join_words(words: list[str]) -> str:
    """Join words as "a", "a and b" or "a, b and c"; return "" where there is no word."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def caption(scene: Scene) -> str:
    """Write one sentence that names every thing in reading order."""
    text = join_words([add_article(f"{t.size} {t.color} {t.noun}") for t in scene.things])
    return text[0].upper() + text[1:] + "."


def detailed_caption(scene: Scene) -> str:
    """Write a caption that gives the number of things, then each thing with its place."""
    parts = join_words(
        [f"{add_article(f'{t.size} {t.color} {t.noun}')} at the {t.place}" for t in scene.things]
    )
    number = len(scene.things)
    return f"There {'is 1 object' if number == 1 else f'are {number} objects'}: {parts}."


def make_question(scene: Scene, kind: str, rng: random.Random) -> Question | None:
    """Return a question of ``kind`` to which ``scene`` has one answer, or None where there is no such question."""
    made = _MAKERS[kind](scene, rng)
    if made is None:
        return None
    templates, words, answer = made
    text = rng.choice(templates).format(**words)
    return Question(kind, _vary(text, rng), answer)


def ask_caption(scene: Scene, rng: random.Random, *, detailed: bool = False) -> Question:
    """Return the question for a caption, or for a detailed one, which every scene has."""
    if detailed:
        return Question("detail", _vary(rng.choice(DETAIL), rng), detailed_caption(scene))
    return Question("caption", _vary(rng.choice(BRIEF), rng), caption(scene))


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


def _find_same(scene: Scene, noun: str) -> list[Thing]:
    return [t for t in scene.things if t.noun == noun]


def _pick_unique(scene: Scene, rng: random.Random) -> tuple[Thing, str] | None:
    """Pick a thing and words that mean it alone; return None where there is none."""
    options = []
    for thing in scene.things:
        if len(_find_same(scene, thing.noun)) == 1:
            options += [(thing, thing.noun)] * 3
        if sum(t.noun == thing.noun and t.color == thing.color for t in scene.things) == 1:
            options.append((thing, f"{thing.color} {thing.noun}"))
        if sum(t.color == thing.color for t in scene.things) == 1:
            options.append((thing, f"{thing.color} {rng.choice(('object', 'thing'))}"))
        if thing.symbol and sum(t.kind == thing.kind for t in scene.things) == 1:
            options.append((thing, thing.kind))
    return rng.choice(options) if options else None


def _ask_color(scene: Scene, rng: random.Random) -> Made | None:
    if len(scene.things) == 1 and rng.random() < 0.3:
        return SINGLE["color"], {}, scene.things[0].color
    options = [t for t in scene.things if len(_find_same(scene, t.noun)) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    noun = thing.noun
    if thing.symbol and sum(t.kind == thing.kind for t in scene.things) == 1 and rng.random() < 0.4:
        noun = thing.kind
    elif rng.random() < 0.1:
        noun = f"{thing.size} {noun}"
    return COLOR, {"n": noun}, thing.color


def _ask_shape(scene: Scene, rng: random.Random) -> Made | None:
    if len(scene.things) == 1 and rng.random() < 0.3 and not scene.things[0].symbol:
        return SINGLE["shape"], {}, scene.things[0].kind
    options = [t for t in scene.things if sum(u.color == t.color for u in scene.things) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    return SHAPE, {"c": thing.color}, thing.noun


def _ask_count(scene: Scene, rng: random.Random) -> Made:
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


def _ask_existence(scene: Scene, rng: random.Random) -> Made | None:
    """Ask whether a thing is there, yes and no equally often; most absent ones change one attribute of a thing."""
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
    return templates, {"a": add_article(noun), "n": noun, "ns": plural}, answer


def _ask_size(scene: Scene, rng: random.Random) -> Made | None:
    if len(scene.things) == 1 and rng.random() < 0.3:
        return SINGLE["size"], {}, scene.things[0].size
    unique = _pick_unique(scene, rng)
    return None if unique is None else (SIZE, {"n": unique[1]}, unique[0].size)


def _ask_place(scene: Scene, rng: random.Random) -> Made | None:
    unique = _pick_unique(scene, rng)
    return None if unique is None else (PLACE, {"n": unique[1]}, unique[0].place)


def ask_region(scene: Scene, place: str, rng: random.Random) -> Question:
    """Ask what stands at ``place``; the answer lists everything there in reading order, or is "nothing"."""
    there = [add_article(f"{t.size} {t.color} {t.noun}") for t in scene.things if t.place == place]
    return Question("region", _vary(rng.choice(REGION).format(p=place), rng), join_words(there) or "nothing")


def _ask_any_region(scene: Scene, rng: random.Random) -> Made:
    place = rng.choice(scene.things).place if rng.random() < 0.7 else rng.choice(PLACES)
    question = ask_region(scene, place, rng)
    return (question.text,), {}, question.answer


def _ask_relation(scene: Scene, rng: random.Random) -> Made | None:
    first, second = _pick_unique(scene, rng), _pick_unique(scene, rng)
    if first is None or second is None or first[0] == second[0]:
        return None
    words = rng.choice(tuple(RELATIONS))
    axis, sign = RELATIONS[words]
    difference = sign * ((first[0].x, first[0].y)[axis] - (second[0].x, second[0].y)[axis])
    if abs(difference) < 12:
        return None
    return RELATION, {"n": first[1], "m": second[1], "r": words}, "yes" if difference > 0 else "no"


def _ask_symbol(scene: Scene, rng: random.Random) -> Made | None:
    options = [t for t in scene.things if t.symbol and sum(u.kind == t.kind for u in scene.things) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    name = "number" if thing.kind == "digit" and rng.random() < 0.4 else thing.kind
    return SYMBOL, {"k": name}, thing.symbol


def _ask_check(scene: Scene, rng: random.Random) -> Made | None:
    options = [t for t in scene.things if len(_find_same(scene, t.noun)) == 1]
    if not options:
        return None
    thing = rng.choice(options)
    if rng.random() < 0.5:
        return CHECK, {"n": thing.noun, "c": thing.color}, "yes"
    color = rng.choice([c for c in COLORS if c != thing.color])
    return CHECK, {"n": thing.noun, "c": color}, "no"


def _ask_absent(scene: Scene, rng: random.Random) -> Made:
    """Ask about a thing that is not there; the answer says so."""
    options = [s for s in SHAPES if not any(t.kind == s for t in scene.things)]
    noun = rng.choice(options)
    (templates,) = rng.choices((COLOR, SIZE, PLACE), (2, 1, 1))
    return templates, {"n": noun}, f"There is no {noun}."


_MAKERS: dict[str, Callable[[Scene, random.Random], Made | None]] = {
    "color": _ask_color,
    "shape": _ask_shape,
    "count": _ask_count,
    "existence": _ask_existence,
    "size": _ask_size,
    "place": _ask_place,
    "region": _ask_any_region,
    "relation": _ask_relation,
    "symbol": _ask_symbol,
    "check": _ask_check,
    "absent": _ask_absent,
    "caption": lambda scene, rng: (BRIEF, {}, caption(scene)),
    "detail": lambda scene, rng: (DETAIL, {}, detailed_caption(scene)),
}
