"""Words that mean one thing of a scene, and no other."""

from __future__ import annotations

import random

from mm1_mlx.tiny.nouns import GROUPS, OTHER_WORDS
from mm1_mlx.tiny.scene import Scene, Thing
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import find_class
from mm1_mlx.tiny.telling import has_pictograms, phrase

OTHER_WORD = 0.12  # share of the nouns that a synonym replaces


def refer(
    scene: Scene, rng: random.Random, *, color: bool = True, size: bool = True
) -> tuple[Thing, str] | None:
    """Pick a thing and words that mean it alone; return None where there is none.

    Args:
        scene: what is shown.
        rng: makes the random choices.
        color: the words may give its colour.
        size: the words may give its size.
    """
    options = [
        (thing, words)
        for thing in scene.things
        for words in list_references(scene, thing, rng, color=color, size=size)
    ]
    return rng.choice(options) if options else None


def list_references(
    scene: Scene, thing: Thing, rng: random.Random, *, color: bool = True, size: bool = True
) -> list[str]:
    """Return the phrases that mean ``thing`` alone, the plainest one three times, so that it is chosen most often."""
    others = [other for other in scene.things if other is not thing]
    found = []
    if all(other.noun != thing.noun for other in others):
        found += [vary_noun(thing.noun, scene, rng)] * 3
    if thing.kind in ("letter", "digit", "word") and all(other.kind != thing.kind for other in others):
        found.append(vary_noun(thing.kind, scene, rng))
    if color and thing.color:
        if all(phrase(other) != phrase(thing) for other in others):
            found.append(phrase(thing))
        if not has_pictograms(scene) and all(other.color != thing.color for other in others):
            found.append(f"{thing.color} {rng.choice(('object', 'thing'))}")
    if size and all((o.noun, o.size_word) != (thing.noun, thing.size_word) for o in others):
        found.append(f"{thing.size_word} {thing.noun}")
    if (
        thing.kind == "pictogram"
        and find_group(thing)
        and all(find_group(o) != find_group(thing) for o in others)
    ):
        found.append(find_group(thing))
    return found


def find_group(thing: Thing) -> str:
    """Return the group of a pictogram, such as "animal", or "" where it belongs to none."""
    if thing.kind != "pictogram":
        return ""
    group = find_class(thing.text).group
    return group if group in GROUPS else ""


def vary_noun(noun: str, scene: Scene, rng: random.Random) -> str:
    """Return ``noun``, or sometimes a synonym that means no other thing of the scene."""
    if noun not in OTHER_WORDS or rng.random() >= OTHER_WORD:
        return noun
    round_things = any(t.kind == "pictogram" for t in scene.things)  # a coin is a round thing too
    words = [w for w in OTHER_WORDS[noun] if not (round_things and noun in SHAPES and "cross" not in noun)]
    return rng.choice(words) if words else noun
