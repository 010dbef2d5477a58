"""Interleaved documents of 2 to 16 pictures. A rule holds through each, which only what came before can tell.

Source: MM1 (arXiv:2403.09611), "Pre-training Data Ablation": interleaved data is what few-shot learning comes from. The
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
from mm1_mlx.tiny.captioning import CLEAN, pick_style, styled
from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.comparing import KINDS as PAIR_KINDS
from mm1_mlx.tiny.comparing import compare
from mm1_mlx.tiny.concepts import EXEMPLARS, exemplar_picture, pick_concepts
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.inventing import invent_names
from mm1_mlx.tiny.looks import ANY, LOOKS, Look
from mm1_mlx.tiny.making import Wish, make_scene, wished
from mm1_mlx.tiny.nouns import article
from mm1_mlx.tiny.page import Page
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import Stock
from mm1_mlx.tiny.telling import listed, phrase

MOST = 16  # pictures in a document
SEED_BITS = 39  # scenes of documents have seeds below those of tests
FRAMES = (  # how a name stands behind its picture; a document keeps to one
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


def naming(rng: random.Random, stock: Stock, *, captioned: float | None = 0.0) -> Page:
    """Name what each picture shows by names invented for this document.

    Args:
        rng: what decides.
        stock: pictograms and fonts.
        captioned: share of the pictures whose caption stands before the name: a bridge from words to names; None
            draws it for the document.
    """
    ways = rng.choice((2, 2, 2, 3, 3, 4))
    found = pick_concepts(ways, rng, stock=stock)
    names = invent_names(ways, rng)
    if captioned is None:
        captioned = rng.choice((1.0, 0.75, 0.5, 0.25))
    frame, bridge = rng.choice(FRAMES), rng.choice(BRIDGED)
    copied = rng.choice((0.0, 0.0, 0.3, 1.0))  # share of the pictures that were there before, to the pixel
    page, shown = Page(), {}
    for place in name_order(ways, rng.randint(ways + 1, MOST), rng):
        concept, name = found[place], names[place]
        before = shown.setdefault(place, [])
        if before and rng.random() < copied:
            number = rng.choice(before)
        else:
            number = rng.randrange(EXEMPLARS)
            before.append(number)
        told = bridge.format(concept.described, name) if rng.random() < captioned else frame.format(name)
        page.add(exemplar_picture(concept, number, stock), told)
    return page


def bridging(rng: random.Random, stock: Stock) -> Page:
    """Name what pictures show, a caption before most names."""
    return naming(rng, stock, captioned=None)


def name_order(ways: int, length: int, rng: random.Random) -> list[int]:
    """Return which class each picture shows: first all of them, then any, so that each later name can be known."""
    first = rng.sample(range(ways), ways)
    return first + [rng.randrange(ways) for _ in range(length - ways)]


def styling(rng: random.Random, stock: Stock) -> Page:
    """Caption every picture in one style."""
    style = pick_style(rng) if rng.random() < 0.8 else CLEAN
    page, behind = Page(), rng.choice(("\n", "\n", "\n\n"))
    lead = rng.choice((" ", "", " ", f"{CAPTION} "))
    for _ in range(rng.randint(2, 10)):
        scene, picture = new_scene(rng, stock, rng.choice((ANY, LOOKS["plain"])))
        page.add(picture, f"{lead}{styled(scene, style)}{behind}")
    return page


def attributing(rng: random.Random, stock: Stock) -> Page:
    """Tell the same attribute of every picture, with or without the question."""
    kind = rng.choice(ATTRIBUTES)
    asked = ask_alike(kind, rng, stock, rng.randint(3, 12))
    with_question = rng.random() < 0.4
    frame = rng.choice(FRAMES[:8])
    page = Page()
    for picture, text, answer in asked:
        page.add(picture, f"{QUESTION} {text} {ANSWER} {answer}\n" if with_question else frame.format(answer))
    return page


def ask_alike(kind: str, rng: random.Random, stock: Stock, number: int) -> list[tuple[Image.Image, str, str]]:
    """Return pictures of one thing with a question of ``kind`` and its answer; of more where things are counted."""
    rows = []
    while len(rows) < number:
        scene, picture = new_scene(rng, stock, look_for(kind), single=kind != "count_all")
        question = ask(kind, scene, rng)
        if question is not None:
            rows.append((picture, question.text, question.answer))
    return rows


def look_for(kind: str) -> Look:
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


def questioning(rng: random.Random, stock: Stock) -> Page:
    """Ask a question about every picture, all of one kind or of several, as few-shot prompts do."""
    kinds = rng.choice((("color", "shape"), ("count_all", "count_some"), ("existence",), ("place",), ("relation",),
                        ("color", "shape", "existence", "count_all", "size", "place", "symbol", "name")))  # fmt: skip
    page, number = Page(), rng.randint(3, 10)
    while len(page.pictures) < number:
        kind = rng.choice(kinds)
        scene, picture = new_scene(rng, stock, look_for(kind))
        question = ask(kind, scene, rng)
        if question is not None:
            page.add(picture, f"{QUESTION} {question.text} {ANSWER} {question.answer}\n")
    return page


def reasoning(rng: random.Random, stock: Stock) -> Page:
    """Count aloud in every line, as few-shot prompts with a rationale do."""
    page = Page()
    for _ in range(rng.randint(2, 6)):
        scene, picture = new_scene(rng, stock, LOOKS["counting"])
        answer = str(len(scene.things))
        steps = ", ".join(f"{n} {phrase(thing)}" for n, thing in enumerate(scene.things, 1))
        text = f"{QUESTION} How many things are there? {RATIONALE} {steps}. {ANSWER} {answer}\n"
        page.add(picture, text)
    return page


def counting(rng: random.Random, stock: Stock) -> Page:
    """Show one thing more, or fewer, in each picture."""
    kind, color = rng.choice(SHAPES), rng.choice(COLORS)
    numbers = list(range(1, rng.randint(3, 8) + 1))
    numbers = numbers[::-1] if rng.random() < 0.3 else numbers
    frame = rng.choice(("{n}", "{n}", "{things}", "{n}: {things}", "now {n}", "{n} in all"))
    frame = rng.choice((" ", "")) + frame + rng.choice(("\n", ", ", ".\n"))
    page = Page()
    for number in numbers:
        scene, picture = new_scene(rng, stock, ANY, wishes=(Wish(kind, color=color),) * number)
        page.add(picture, frame.format(n=len(scene.things), things=listed(scene.things)))
    return page


def comparing(rng: random.Random, stock: Stock) -> Page:
    """Compare two pictures, and two more, and so on, by the same question."""
    kind = rng.choice(tuple(PAIR_KINDS))
    page = Page()
    asked = rng.random() < 0.6
    for _ in range(rng.randint(1, 5)):
        (first, second), question = compare(kind, rng.getrandbits(SEED_BITS), stock=stock)
        page.add(draw_scene(first, stock=stock), "")
        told = (
            f"{QUESTION} {question.text} {ANSWER} {question.answer}\n" if asked else f" {question.answer}\n"
        )
        page.add(draw_scene(second, stock=stock), told)
    return page


def repeating(rng: random.Random, stock: Stock) -> Page:
    """Show pictures again, to the pixel, with what was said about each."""
    style = pick_style(rng)
    told = []
    for number in range(rng.randint(2, 4)):
        scene, picture = new_scene(rng, stock, ANY)
        text = rng.choice((styled(scene, style), f"No. {number + 1}", rng.choice(invent_names(2, rng))))
        told.append((picture, text))
    page = Page()
    for picture, text in [*told, *rng.choices(told, k=rng.randint(2, 8))]:
        page.add(picture, f" {text}\n")
    return page


def telling(rng: random.Random, stock: Stock) -> Page:
    """Add a thing in every picture and say which."""
    page = Page()
    wishes: tuple[Wish, ...] = ()
    first, later = rng.choice(
        (("There is {}.", "Then comes {}."), ("{}.", "And {}."), ("First {}.", "Now {} too."))
    )
    for number in range(rng.randint(2, 6)):
        wishes += (Wish(rng.choice(SHAPES), color=rng.choice(COLORS)),)
        _, picture = new_scene(rng, stock, LOOKS["plain"], wishes=wishes)
        new = article(f"{wishes[-1].color} {wishes[-1].kind}")
        page.add(picture, f" {(later if number else first).format(new)}\n")
    return page


@dataclass(frozen=True)
class Rule:
    """A kind of document and its share."""

    write: Callable[[random.Random, Stock], Page]
    weight: float


RULES = {
    "names": Rule(naming, 36.0),
    "bridge": Rule(bridging, 10.0),
    "styles": Rule(styling, 14.0),
    "attributes": Rule(attributing, 9.0),
    "questions": Rule(questioning, 9.0),
    "rationales": Rule(reasoning, 5.0),
    "counting": Rule(counting, 4.0),
    "comparisons": Rule(comparing, 6.0),
    "copies": Rule(repeating, 4.0),
    "stories": Rule(telling, 3.0),
}


def write_document(rng: random.Random, stock: Stock) -> Page:
    """Return a document under one of the rules."""
    rule = rng.choices(tuple(RULES.values()), [rule.weight for rule in RULES.values()])[0]
    return rule.write(rng, stock)


def new_scene(
    rng: random.Random,
    stock: Stock,
    look: Look,
    *,
    single: bool = False,
    wishes: tuple[Wish, ...] | None = None,
) -> tuple[Scene, Image.Image]:
    """Return a scene for training and its picture.

    Args:
        rng: what decides.
        stock: pictograms and fonts.
        look: how often what occurs.
        single: show one thing.
        wishes: what to show.
    """
    if single:
        look = replace(look, numbers=(1,))
    while True:
        scene = make_scene(rng.getrandbits(SEED_BITS), look, stock=stock, wishes=wishes)
        if wishes is None or Counter(map(wished, scene.things)) == Counter(wishes):
            return scene, draw_scene(scene, stock=stock)
