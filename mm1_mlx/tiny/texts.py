"""Text without pictures: descriptions of scenes with questions, names, facts, numbers, spelling, and copying.

Copying and naming in text are what a small decoder learns first on the way to learning from shots.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mm1_mlx.inputs.few_shot import ANSWER, QUESTION
from mm1_mlx.tiny.asking import ask
from mm1_mlx.tiny.captioning import pick_style, write_in_style
from mm1_mlx.tiny.concepts import pick_concepts
from mm1_mlx.tiny.inventing import SYLLABLES, invent_names
from mm1_mlx.tiny.looks import ANY
from mm1_mlx.tiny.making import make_scene
from mm1_mlx.tiny.nouns import NUMBERS, add_article, capitalise, is_bare, join_words, make_plural
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.stock import Stock, pictogram_classes
from mm1_mlx.tiny.telling import caption, detailed_caption, list_things
from mm1_mlx.tiny.words import TRAINING_WORDS
from mm1_mlx.tiny.world import SEED_BITS

KNOWN_FROM_CAPTION = ("color", "shape", "existence", "count_all", "count_some", "check", "colors", "symbol")


def tell_scene(rng: random.Random, stock: Stock) -> str:
    """Describe a scene, then ask questions that the description answers."""
    scene = _make_any_scene(rng, stock)
    placed = rng.random() < 0.4
    lines = [detailed_caption(scene) if placed else caption(scene)]
    kinds = (*KNOWN_FROM_CAPTION, "place", "size") if placed else KNOWN_FROM_CAPTION
    asked = rng.choice((f"{QUESTION} {{}} {ANSWER} {{}}", "{} {}", "Q: {} A: {}", "- {}\n- {}"))
    for kind in rng.sample(kinds, rng.randint(2, 5)):
        question = ask(kind, scene, rng)
        if question is not None:
            lines.append(asked.format(question.text, question.answer))
    return "\n".join(lines)


def restate_scenes(rng: random.Random, stock: Stock) -> str:
    """Describe a few scenes, each first in one style and then in another."""
    style, other = pick_style(rng), pick_style(rng)
    scenes = [_make_any_scene(rng, stock) for _ in range(rng.randint(2, 5))]
    return "\n".join(f"{write_in_style(scene, style)} -> {write_in_style(scene, other)}" for scene in scenes)


def repeat_names(rng: random.Random, stock: Stock) -> str:
    """Name a few things with invented names, again and again."""
    ways = rng.randint(2, 5)
    found = [concept.description for concept in pick_concepts(ways, rng, stock=stock)]
    names = invent_names(ways, rng)
    frame = rng.choice(
        ("{}: {}\n", "{} is {}\n", "{} = {}\n", "A {} is a {}.\n", f"{QUESTION} {{}}? {ANSWER} {{}}\n")
    )
    order = rng.sample(range(ways), ways) + rng.choices(range(ways), k=rng.randint(3, 12))
    return "".join(frame.format(found[place], names[place]) for place in order)


def explain_names(rng: random.Random, stock: Stock) -> str:
    """Define invented names, then ask what they mean and how things are called."""
    ways = rng.randint(2, 4)
    found = [concept.description for concept in pick_concepts(ways, rng, stock=stock)]
    names = invent_names(ways, rng)
    lines = [
        f"{capitalise(add_article(name))} is {add_article(thing)}."
        for name, thing in zip(names, found, strict=True)
    ]
    for place in rng.choices(range(ways), k=rng.randint(2, 6)):
        if rng.random() < 0.5:
            lines.append(f"What is {add_article(names[place])}? {capitalise(add_article(found[place]))}.")
        else:
            lines.append(
                f"What do we call {add_article(found[place])}? {capitalise(add_article(names[place]))}."
            )
    return " ".join(lines)


def copy_pattern(rng: random.Random, stock: Stock) -> str:
    """Repeat a few syllables, words or letters to a fixed length."""
    source = rng.choice((SYLLABLES, SYLLABLES, TRAINING_WORDS, tuple("abcdefghijklmnopqrstuvwxyz0123456789")))
    period = [rng.choice(source) for _ in range(rng.randint(3, 16))]
    joint = rng.choice((" ", "", ", ", "\n"))
    return joint.join(period[number % len(period)] for number in range(rng.randint(32, 64)))


def state_groups(rng: random.Random, stock: Stock) -> str:
    """State what kind of thing a few things are."""
    classes = [c for c in pictogram_classes("named") if c.group != "thing"]
    lines = []
    for thing in rng.sample(classes, rng.randint(3, 8)):
        subject = capitalise(add_article(thing.name))
        verb = "are" if is_bare(thing.name) and thing.name.endswith("s") else "is"
        lines.append(
            rng.choice((f"{subject} {verb} {add_article(thing.group)}.", f"{thing.name}: {thing.group}"))
        )
    return " ".join(lines)


def write_numbers(rng: random.Random, stock: Stock) -> str:
    """Count, add, and name numbers."""
    way = rng.randrange(4)
    if way == 0:
        first, step = rng.randint(0, 9), rng.choice((1, 1, 1, 2, -1))
        return ", ".join(str(max(0, first + step * k)) for k in range(rng.randint(4, 10)))
    if way == 1:
        pairs = [(rng.randint(0, 5), rng.randint(0, 5)) for _ in range(rng.randint(2, 6))]
        return "\n".join(f"{a} + {b} = {a + b}" for a, b in pairs)
    if way == 2:
        return ", ".join(f"{NUMBERS[n]} is {n}" for n in rng.sample(range(1, 11), rng.randint(3, 7)))
    noun = rng.choice(("circle", "square", "star", "triangle", "cross", "diamond", "thing"))
    row = [noun] * rng.randint(1, 8)
    return f"{join_words(row)}: that makes {len(row)} {noun if len(row) == 1 else make_plural(noun)}."


def spell_words(rng: random.Random, stock: Stock) -> str:
    """Spell words, and put letters together."""
    lines = []
    for word in rng.sample(TRAINING_WORDS, rng.randint(3, 8)):
        letters = " ".join(word.upper() if rng.random() < 0.5 else word)
        lines.append(f"{word}: {letters}" if rng.random() < 0.6 else f"{letters}: {word}")
    return "\n".join(lines)


def compare_scenes(rng: random.Random, stock: Stock) -> str:
    """Describe two pictures and say which shows more."""
    first, second = _make_any_scene(rng, stock), _make_any_scene(rng, stock)
    a, b = len(first.things), len(second.things)
    more = "Both show as many." if a == b else f"The {'first' if a > b else 'second'} shows more."
    return f"First: {list_things(first.things)}. Second: {list_things(second.things)}. {a} and {b}. {more}"


@dataclass(frozen=True)
class TextKind:
    """A kind of text and how often it is written."""

    write: Callable[[random.Random, Stock], str]
    weight: float


TEXTS = {
    "told": TextKind(tell_scene, 30.0),
    "restated": TextKind(restate_scenes, 8.0),
    "named": TextKind(repeat_names, 20.0),
    "explained": TextKind(explain_names, 8.0),
    "copied": TextKind(copy_pattern, 10.0),
    "known": TextKind(state_groups, 8.0),
    "numbered": TextKind(write_numbers, 6.0),
    "spelled": TextKind(spell_words, 6.0),
    "compared": TextKind(compare_scenes, 4.0),
}


def write_text(rng: random.Random, stock: Stock) -> str:
    """Return a random text of one of the kinds."""
    kind = rng.choices(tuple(TEXTS.values()), [kind.weight for kind in TEXTS.values()])[0]
    return kind.write(rng, stock)


def _make_any_scene(rng: random.Random, stock: Stock) -> Scene:
    return make_scene(rng.getrandbits(SEED_BITS), ANY, stock=stock)
