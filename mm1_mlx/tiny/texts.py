"""Text without pictures: scenes told and asked about, names, facts, numbers, spelling, and copying.

Copying and naming in text are what a small decoder learns first on the way to learning from shots.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mm1_mlx.inputs.few_shot import ANSWER, QUESTION
from mm1_mlx.tiny.asking import ask
from mm1_mlx.tiny.captioning import pick_style, styled
from mm1_mlx.tiny.concepts import pick_concepts
from mm1_mlx.tiny.inventing import SYLLABLES, invent_names
from mm1_mlx.tiny.looks import ANY
from mm1_mlx.tiny.making import make_scene
from mm1_mlx.tiny.nouns import NUMBERS, article, capital, is_bare, joined, plural
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.stock import Stock, pictogram_classes
from mm1_mlx.tiny.telling import caption, detailed_caption, listed
from mm1_mlx.tiny.words import TRAINING_WORDS

SEED_BITS = 39
KNOWN_FROM_CAPTION = ("color", "shape", "existence", "count_all", "count_some", "check", "colors", "symbol")


def told(rng: random.Random, stock: Stock) -> str:
    """Describe a scene, then ask about it what the description answers."""
    scene = _scene(rng, stock)
    placed = rng.random() < 0.4
    lines = [detailed_caption(scene) if placed else caption(scene)]
    kinds = (*KNOWN_FROM_CAPTION, "place", "size") if placed else KNOWN_FROM_CAPTION
    asked = rng.choice((f"{QUESTION} {{}} {ANSWER} {{}}", "{} {}", "Q: {} A: {}", "- {}\n- {}"))
    for kind in rng.sample(kinds, rng.randint(2, 5)):
        question = ask(kind, scene, rng)
        if question is not None:
            lines.append(asked.format(question.text, question.answer))
    return "\n".join(lines)


def restated(rng: random.Random, stock: Stock) -> str:
    """Say what a few scenes show in one style after another."""
    style, other = pick_style(rng), pick_style(rng)
    scenes = [_scene(rng, stock) for _ in range(rng.randint(2, 5))]
    return "\n".join(f"{styled(scene, style)} -> {styled(scene, other)}" for scene in scenes)


def named(rng: random.Random, stock: Stock) -> str:
    """Give things invented names, again and again."""
    ways = rng.randint(2, 5)
    found = [concept.described for concept in pick_concepts(ways, rng, stock=stock)]
    names = invent_names(ways, rng)
    frame = rng.choice(
        ("{}: {}\n", "{} is {}\n", "{} = {}\n", "A {} is a {}.\n", f"{QUESTION} {{}}? {ANSWER} {{}}\n")
    )
    order = rng.sample(range(ways), ways) + rng.choices(range(ways), k=rng.randint(3, 12))
    return "".join(frame.format(found[place], names[place]) for place in order)


def explained(rng: random.Random, stock: Stock) -> str:
    """Define invented names, then use them in a sentence and resolve them."""
    ways = rng.randint(2, 4)
    found = [concept.described for concept in pick_concepts(ways, rng, stock=stock)]
    names = invent_names(ways, rng)
    lines = [
        f"{capital(article(name))} is {article(thing)}." for name, thing in zip(names, found, strict=True)
    ]
    for place in rng.choices(range(ways), k=rng.randint(2, 6)):
        if rng.random() < 0.5:
            lines.append(f"What is {article(names[place])}? {capital(article(found[place]))}.")
        else:
            lines.append(f"What do we call {article(found[place])}? {capital(article(names[place]))}.")
    return " ".join(lines)


def copied(rng: random.Random, stock: Stock) -> str:
    """Repeat a few syllables, words or letters to a fixed length."""
    source = rng.choice((SYLLABLES, SYLLABLES, TRAINING_WORDS, tuple("abcdefghijklmnopqrstuvwxyz0123456789")))
    period = [rng.choice(source) for _ in range(rng.randint(3, 16))]
    joint = rng.choice((" ", "", ", ", "\n"))
    return joint.join(period[number % len(period)] for number in range(rng.randint(32, 64)))


def known(rng: random.Random, stock: Stock) -> str:
    """State what kind of thing a few things are."""
    classes = [c for c in pictogram_classes("named") if c.group != "thing"]
    lines = []
    for thing in rng.sample(classes, rng.randint(3, 8)):
        subject = capital(article(thing.name))
        verb = "are" if is_bare(thing.name) and thing.name.endswith("s") else "is"
        lines.append(
            rng.choice((f"{subject} {verb} {article(thing.group)}.", f"{thing.name}: {thing.group}"))
        )
    return " ".join(lines)


def numbered(rng: random.Random, stock: Stock) -> str:
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
    return f"{joined(row)}: that makes {len(row)} {noun if len(row) == 1 else plural(noun)}."


def spelled(rng: random.Random, stock: Stock) -> str:
    """Spell words, and put letters together."""
    lines = []
    for word in rng.sample(TRAINING_WORDS, rng.randint(3, 8)):
        letters = " ".join(word.upper() if rng.random() < 0.5 else word)
        lines.append(f"{word}: {letters}" if rng.random() < 0.6 else f"{letters}: {word}")
    return "\n".join(lines)


def compared(rng: random.Random, stock: Stock) -> str:
    """Describe two pictures and say which shows more."""
    first, second = _scene(rng, stock), _scene(rng, stock)
    a, b = len(first.things), len(second.things)
    more = "Both show as many." if a == b else f"The {'first' if a > b else 'second'} shows more."
    return f"First: {listed(first.things)}. Second: {listed(second.things)}. {a} and {b}. {more}"


@dataclass(frozen=True)
class Kind:
    """A kind of text and its share."""

    write: Callable[[random.Random, Stock], str]
    weight: float


TEXTS = {
    "told": Kind(told, 30.0),
    "restated": Kind(restated, 8.0),
    "named": Kind(named, 20.0),
    "explained": Kind(explained, 8.0),
    "copied": Kind(copied, 10.0),
    "known": Kind(known, 8.0),
    "numbered": Kind(numbered, 6.0),
    "spelled": Kind(spelled, 6.0),
    "compared": Kind(compared, 4.0),
}


def write_text(rng: random.Random, stock: Stock) -> str:
    """Return a text of one of the kinds."""
    kind = rng.choices(tuple(TEXTS.values()), [kind.weight for kind in TEXTS.values()])[0]
    return kind.write(rng, stock)


def _scene(rng: random.Random, stock: Stock) -> Scene:
    return make_scene(rng.getrandbits(SEED_BITS), ANY, stock=stock)
