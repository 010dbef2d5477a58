"""Interleaved documents of 2 to 16 pictures. Each follows a rule that a reader can only learn from the pictures before.

Source: MM1 (arXiv:2403.09611), "Pre-training Data Ablation": few-shot learning comes from interleaved data. The
invented names follow Singh et al. (arXiv:2404.07129) and the rest of what makes a model learn from its context.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from mm1_mlx.inputs.few_shot import ANSWER, CAPTION, QUESTION, RATIONALE
from mm1_mlx.tiny.asking import ask
from mm1_mlx.tiny.captioning import CLEAN, pick_style, write_in_style
from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.comparing import PAIR_KINDS, compare
from mm1_mlx.tiny.concepts import EXEMPLARS, draw_exemplar, pick_concepts
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.inventing import invent_names
from mm1_mlx.tiny.looks import ANY, LOOKS, Look
from mm1_mlx.tiny.making import Wish, make_scene, to_wish
from mm1_mlx.tiny.nouns import add_article
from mm1_mlx.tiny.page import Page
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import Stock
from mm1_mlx.tiny.telling import list_things, phrase
from mm1_mlx.tiny.world import SEED_BITS

MOST = 16  # pictures in a document
FRAMES = (  # how a name stands after its picture; a document uses one of them throughout
    *(
        " {}\n",
        " {}\n",
        " {}\n",
        "{}\n",
        " {}. ",
        ": {}\n",
        " = {};\n",
        " {} |",
        "This is a {}.\n",
        " A {}.\n",
    ),
    *("It is called {}.\n", "Name: {}\n", f"{QUESTION} What is this? {ANSWER} {{}}\n", f"{CAPTION} a {{}}\n"),
    *(f"{CAPTION} {{}}\n", f"{QUESTION} What is it called? {ANSWER} {{}}\n", "I see a {}.\n", " (a {})\n"),
)
BRIDGED = (" {}: {}\n", " {} = {}\n", " {}, a {}.\n", "A {} is a {}.\n", " {} ({})\n")  # caption, then name
ATTRIBUTES = ("color", "shape", "count_all", "place", "size", "name", "symbol", "word")


def write_names(rng: random.Random, stock: Stock, *, captioned: float | None = 0.0) -> Page:
    """Write a document that calls what its pictures show by names invented for this document.

    Args:
        rng: makes the random choices.
        stock: pictograms and fonts.
        captioned: share of the pictures that have a caption before the name, as a bridge from words to names; None
            chooses a random share.
    """
    ways = rng.choice((2, 2, 2, 3, 3, 4))
    found = pick_concepts(ways, rng, stock=stock)
    names = invent_names(ways, rng)
    if captioned is None:
        captioned = rng.choice((1.0, 0.75, 0.5, 0.25))
    frame, bridge = rng.choice(FRAMES), rng.choice(BRIDGED)
    copied = rng.choice((0.0, 0.0, 0.3, 1.0))  # share of the pictures that repeat an earlier one exactly
    page, shown = Page(), {}
    for place in pick_name_order(ways, rng.randint(ways + 1, MOST), rng):
        concept, name = found[place], names[place]
        before = shown.setdefault(place, [])
        if before and rng.random() < copied:
            number = rng.choice(before)
        else:
            number = rng.randrange(EXEMPLARS)
            before.append(number)
        text = bridge.format(concept.description, name) if rng.random() < captioned else frame.format(name)
        page.add(draw_exemplar(concept, number, stock), text)
    return page


def write_bridge(rng: random.Random, stock: Stock) -> Page:
    """Write a document of pictures with invented names, in which most names have a caption before them."""
    return write_names(rng, stock, captioned=None)


def pick_name_order(ways: int, length: int, rng: random.Random) -> list[int]:
    """Return the class that each picture shows: first each class once, then random ones, whose names are then known."""
    first = rng.sample(range(ways), ways)
    return first + [rng.randrange(ways) for _ in range(length - ways)]


def write_captions(rng: random.Random, stock: Stock) -> Page:
    """Write a document that captions every picture in the same style."""
    style = pick_style(rng) if rng.random() < 0.8 else CLEAN
    page, behind = Page(), rng.choice(("\n", "\n", "\n\n"))
    lead = rng.choice((" ", "", " ", f"{CAPTION} "))
    for _ in range(rng.randint(2, 10)):
        scene, picture = draw_new_scene(rng, stock, rng.choice((ANY, LOOKS["plain"])))
        page.add(picture, f"{lead}{write_in_style(scene, style)}{behind}")
    return page


def write_attributes(rng: random.Random, stock: Stock) -> Page:
    """Write a document that gives the same attribute of every picture, with or without the question."""
    kind = rng.choice(ATTRIBUTES)
    asked = ask_alike(kind, rng, stock, rng.randint(3, 12))
    with_question = rng.random() < 0.4
    frame = rng.choice(FRAMES[:8])
    page = Page()
    for picture, text, answer in asked:
        page.add(picture, f"{QUESTION} {text} {ANSWER} {answer}\n" if with_question else frame.format(answer))
    return page


def ask_alike(kind: str, rng: random.Random, stock: Stock, number: int) -> list[tuple[Image.Image, str, str]]:
    """Return pictures, each with a question of ``kind`` and its answer; each shows one thing, or more to count."""
    rows = []
    while len(rows) < number:
        scene, picture = draw_new_scene(rng, stock, pick_look(kind), single=kind != "count_all")
        question = ask(kind, scene, rng)
        if question is not None:
            rows.append((picture, question.text, question.answer))
    return rows


def pick_look(kind: str) -> Look:
    """Return the look of scenes about which a question of ``kind`` can be asked."""
    looks = {
        "symbol": "symbols",
        "word": "words",
        "count_all": "counting",
        "count_some": "counting",
        "name": "any",
    }
    looks |= dict.fromkeys(("shape", "color", "colors", "check"), "shapes")
    return LOOKS[looks.get(kind, "any")]


def write_questions(rng: random.Random, stock: Stock) -> Page:
    """Write a document with a question about every picture, all of one kind or of several, as in few-shot prompts."""
    kinds = rng.choice((("color", "shape"), ("count_all", "count_some"), ("existence",), ("place",), ("relation",),
                        ("color", "shape", "existence", "count_all", "size", "place", "symbol", "name")))  # fmt: skip
    page, number = Page(), rng.randint(3, 10)
    while len(page.pictures) < number:
        kind = rng.choice(kinds)
        scene, picture = draw_new_scene(rng, stock, pick_look(kind))
        question = ask(kind, scene, rng)
        if question is not None:
            page.add(picture, f"{QUESTION} {question.text} {ANSWER} {question.answer}\n")
    return page


def write_rationales(rng: random.Random, stock: Stock) -> Page:
    """Write a document that counts the things of every picture one by one, as few-shot prompts with a rationale do."""
    page = Page()
    for _ in range(rng.randint(2, 6)):
        scene, picture = draw_new_scene(rng, stock, LOOKS["counting"])
        answer = str(len(scene.things))
        steps = ", ".join(f"{n} {phrase(thing)}" for n, thing in enumerate(scene.things, 1))
        text = f"{QUESTION} How many things are there? {RATIONALE} {steps}. {ANSWER} {answer}\n"
        page.add(picture, text)
    return page


def write_counting(rng: random.Random, stock: Stock) -> Page:
    """Write a document in which each picture shows one thing more, or one fewer, than the last."""
    kind, color = rng.choice(SHAPES), rng.choice(COLORS)
    numbers = list(range(1, rng.randint(3, 8) + 1))
    numbers = numbers[::-1] if rng.random() < 0.3 else numbers
    frame = rng.choice(("{n}", "{n}", "{things}", "{n}: {things}", "now {n}", "{n} in all"))
    frame = rng.choice((" ", "")) + frame + rng.choice(("\n", ", ", ".\n"))
    page = Page()
    for number in numbers:
        scene, picture = draw_new_scene(rng, stock, ANY, wishes=(Wish(kind, color=color),) * number)
        page.add(picture, frame.format(n=len(scene.things), things=list_things(scene.things)))
    return page


def write_comparisons(rng: random.Random, stock: Stock) -> Page:
    """Write a document that asks the same question about one pair of pictures after another."""
    kind = rng.choice(tuple(PAIR_KINDS))
    page = Page()
    asked = rng.random() < 0.6
    for _ in range(rng.randint(1, 5)):
        (first, second), question = compare(kind, rng.getrandbits(SEED_BITS), stock=stock)
        page.add(draw_scene(first, stock=stock), "")
        text = (
            f"{QUESTION} {question.text} {ANSWER} {question.answer}\n" if asked else f" {question.answer}\n"
        )
        page.add(draw_scene(second, stock=stock), text)
    return page


def write_copies(rng: random.Random, stock: Stock) -> Page:
    """Write a document that repeats its pictures exactly, each with its text."""
    style = pick_style(rng)
    rows = []
    for number in range(rng.randint(2, 4)):
        scene, picture = draw_new_scene(rng, stock, ANY)
        text = rng.choice(
            (write_in_style(scene, style), f"No. {number + 1}", rng.choice(invent_names(2, rng)))
        )
        rows.append((picture, text))
    page = Page()
    for picture, text in [*rows, *rng.choices(rows, k=rng.randint(2, 8))]:
        page.add(picture, f" {text}\n")
    return page


def write_story(rng: random.Random, stock: Stock) -> Page:
    """Write a document in which each picture adds a thing and its text names the new one."""
    page = Page()
    wishes: tuple[Wish, ...] = ()
    first, later = rng.choice(
        (("There is {}.", "Then comes {}."), ("{}.", "And {}."), ("First {}.", "Now {} too."))
    )
    for number in range(rng.randint(2, 6)):
        wishes += (Wish(rng.choice(SHAPES), color=rng.choice(COLORS)),)
        _, picture = draw_new_scene(rng, stock, LOOKS["plain"], wishes=wishes)
        new = add_article(f"{wishes[-1].color} {wishes[-1].kind}")
        page.add(picture, f" {(later if number else first).format(new)}\n")
    return page


@dataclass(frozen=True)
class Rule:
    """A kind of document and how often it is written."""

    write: Callable[[random.Random, Stock], Page]
    weight: float


RULES = {
    "names": Rule(write_names, 36.0),
    "bridge": Rule(write_bridge, 10.0),
    "styles": Rule(write_captions, 14.0),
    "attributes": Rule(write_attributes, 9.0),
    "questions": Rule(write_questions, 9.0),
    "rationales": Rule(write_rationales, 5.0),
    "counting": Rule(write_counting, 4.0),
    "comparisons": Rule(write_comparisons, 6.0),
    "copies": Rule(write_copies, 4.0),
    "stories": Rule(write_story, 3.0),
}


def write_document(rng: random.Random, stock: Stock) -> Page:
    """Return a random document that follows one of the rules."""
    rule = rng.choices(tuple(RULES.values()), [rule.weight for rule in RULES.values()])[0]
    return rule.write(rng, stock)


def draw_new_scene(
    rng: random.Random,
    stock: Stock,
    look: Look,
    *,
    single: bool = False,
    wishes: tuple[Wish, ...] | None = None,
) -> tuple[Scene, Image.Image]:
    """Make a scene for training and draw it.

    Args:
        rng: makes the random choices.
        stock: pictograms and fonts.
        look: how the scene may look.
        single: show one thing only.
        wishes: the things to show; None leaves them to ``look``.
    """
    if single:
        look = replace(look, numbers=(1,))
    while True:
        scene = make_scene(rng.getrandbits(SEED_BITS), look, stock=stock, wishes=wishes)
        if wishes is None or Counter(map(to_wish, scene.things)) == Counter(wishes):
            return scene, draw_scene(scene, stock=stock)
