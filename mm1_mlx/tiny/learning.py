"""Test items of learning from shots: invented names and caption styles that only the shots reveal.

Training never shows these classes and names. Sources: VL-ICL Bench's fast open-ended mini-ImageNet, in which
two classes get invented names; MM1 (arXiv:2403.09611), its few-shot evaluation.
"""

from __future__ import annotations

import random
from typing import Literal

from PIL import Image

from mm1_mlx.inputs.few_shot import CAPTION
from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.asking import Question
from mm1_mlx.tiny.captioning import pick_style, write_in_style
from mm1_mlx.tiny.concepts import Concept, make_exemplar, pick_concepts
from mm1_mlx.tiny.conversing import NAMING
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.inventing import invent_names
from mm1_mlx.tiny.looks import ANY
from mm1_mlx.tiny.making import make_scene
from mm1_mlx.tiny.stock import Stock
from mm1_mlx.tiny.trials import Trial
from mm1_mlx.tiny.world import SEED_BITS, TESTING_SEEDS

Control = Literal["none", "no shots", "shuffled"]
FRAME = " {}\n"  # how a name stands after its picture in a document


def make_naming_trial(
    row: str, number: int, stock: Stock, *, ways: int, shots: int, control: Control = "none"
) -> Trial:
    """Make an item that asks for the name of a picture after shots: pictures with invented names.

    The prompt is written in three ways: as a document for a base model, as turns, and as one text for a chat.

    Args:
        row: name of the row of the table.
        number: number of the item in its row.
        stock: pictograms and fonts.
        ways: number of classes, each with a name of its own.
        shots: number of pictures with their names, equally many of each class.
        control: "no shots" leaves the shots out; "shuffled" shows pictures of other classes in their places. In both
            cases nothing distinguishes the names, so that ranking them is right by chance alone.
    """
    rng = random.Random(f"named {ways} {shots} {number}")  # the same for every control
    found = pick_concepts(2 * ways, rng, stock=stock, held_out=True)
    classes, others = found[:ways], found[ways:]
    names = invent_names(ways, rng, held_out=True)
    order = [place for place in range(ways) for _ in range(shots // ways)]
    rng.shuffle(order)
    asked = rng.randrange(ways)
    numbers = rng.sample(range(1 << 20), shots + 1)
    shown = others if control == "shuffled" else classes
    pictures = [_draw_test_picture(shown[place], n, stock) for place, n in zip(order, numbers, strict=False)]
    shown_names = [names[place] for place in order]
    if control == "no shots":
        pictures, shown_names = [], []
    pictures.append(_draw_test_picture(classes[asked], numbers[-1], stock))
    question = Question("named", NAMING[0], names[asked], (f"a {names[asked]}", f"this is a {names[asked]}"))
    return Trial(
        row,
        number,
        tuple(pictures),
        f"{IMAGE}{NAMING[0]}",
        question,
        document="".join(IMAGE + FRAME.format(name) for name in shown_names) + IMAGE,
        turns=tuple((f"{IMAGE}{NAMING[0]}", name) for name in shown_names),
        in_one="".join(f"{IMAGE} {name}\n" for name in shown_names) + f"{IMAGE} {NAMING[0]}",
        choices=tuple(names),
    )


def make_styling_trial(row: str, number: int, stock: Stock, *, shots: int) -> Trial:
    """Make an item that asks for a caption after ``shots`` captions in a style that training never uses."""
    rng = random.Random(f"styled {number}")  # the same style and query whatever the shots
    style = pick_style(rng, held_out=True)
    seeds = [TESTING_SEEDS + rng.getrandbits(SEED_BITS) for _ in range(9)]
    scenes = [make_scene(seed, ANY, stock=stock) for seed in (*seeds[: min(shots, 8)], seeds[-1])]
    captions = [write_in_style(scene, style) for scene in scenes]
    pictures = tuple(draw_scene(scene, stock=stock) for scene in scenes)
    lead = f"{IMAGE}{CAPTION}"
    return Trial(
        row,
        number,
        pictures,
        f"{IMAGE}Write a caption.",
        Question("styled", "Write a caption.", captions[-1]),
        document="".join(f"{lead} {text}\n" for text in captions[:-1]) + lead,
        turns=tuple((f"{IMAGE}Write a caption.", text) for text in captions[:-1]),
    )


def _draw_test_picture(concept: Concept, number: int, stock: Stock) -> Image.Image:
    return draw_scene(make_exemplar(concept, number, stock=stock, test=True), stock=stock)
