"""Words that mean one thing of a scene, and no other."""

from __future__ import annotations

import random

from mm1_mlx.tiny.nouns import GROUPS, OTHER_WORDS
from mm1_mlx.tiny.scene import Scene, Thing
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import class_named
from mm1_mlx.tiny.telling import has_pictograms, phrase

OTHER_WORD = 0.12  # share of nouns that another word stands for


def refer(
    scene: Scene, rng: random.Random, *, color: bool = True, size: bool = True
) -> tuple[Thing, str] | None:
    """Return a thing and words that mean it alone, or None where there is none.

    Args:
        scene: what is shown.
        rng: what decides.
        color: the words may tell its colour.
        size: the words may tell its size.
    """
    options = [
        (thing, words)
        for thing in scene.things
        for words in references(scene, thing, rng, color=color, size=size)
    ]
    return rng.choice(options) if options else None


def references(
    scene: Scene, thing: Thing, rng: random.Random, *, color: bool = True, size: bool = True
) -> list[str]:
    """Return the ways to mean ``thing`` alone, the plainest one thrice."""
    others = [other for other in scene.things if other is not thing]
    found = []
    if all(other.noun != thing.noun for other in others):
        found += [other_word(thing.noun, scene, rng)] * 3
    if thing.kind in ("letter", "digit", "word") and all(other.kind != thing.kind for other in others):
        found.append(other_word(thing.kind, scene, rng))
    if color and thing.color:
        if all(phrase(other) != phrase(thing) for other in others):
            found.append(phrase(thing))
        if not has_pictograms(scene) and all(other.color != thing.color for other in others):
            found.append(f"{thing.color} {rng.choice(('object', 'thing'))}")
    if size and all((o.noun, o.size_word) != (thing.noun, thing.size_word) for o in others):
        found.append(f"{thing.size_word} {thing.noun}")
    if thing.kind == "pictogram" and group_of(thing) and all(group_of(o) != group_of(thing) for o in others):
        found.append(group_of(thing))
    return found


def group_of(thing: Thing) -> str:
    """Return "animal" and the like for a pictogram of such a group, else ""."""
    if thing.kind != "pictogram":
        return ""
    group = class_named(thing.text).group
    return group if group in GROUPS else ""


def other_word(noun: str, scene: Scene, rng: random.Random) -> str:
    """Return ``noun``, at times another word for it that no thing of the scene goes by."""
    if noun not in OTHER_WORDS or rng.random() >= OTHER_WORD:
        return noun
    round_things = any(t.kind == "pictogram" for t in scene.things)  # a coin is a round thing too
    words = [w for w in OTHER_WORDS[noun] if not (round_things and noun in SHAPES and "cross" not in noun)]
    return rng.choice(words) if words else noun
