"""Test items of learning from shots: invented names and caption styles that only the shots tell.

Classes and names are such as training never shows. Sources: VL-ICL Bench's fast open-ended mini-ImageNet, in which
two classes get invented names; MM1 (arXiv:2403.09611), its few-shot evaluation.
"""

from __future__ import annotations

import random
from typing import Literal

from PIL import Image

from mm1_mlx.inputs.few_shot import CAPTION
from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.asking import Question
from mm1_mlx.tiny.captioning import pick_style, styled
from mm1_mlx.tiny.concepts import Concept, exemplar, pick_concepts
from mm1_mlx.tiny.conversing import NAMING
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.inventing import invent_names
from mm1_mlx.tiny.looks import ANY
from mm1_mlx.tiny.making import make_scene
from mm1_mlx.tiny.stock import Stock
from mm1_mlx.tiny.trials import Trial
from mm1_mlx.tiny.world import TESTING_SEEDS

Control = Literal["none", "no shots", "shuffled"]
FRAME = " {}\n"  # how a name stands behind its picture in a document


def named_trial(
    row: str, number: int, stock: Stock, *, ways: int, shots: int, control: Control = "none"
) -> Trial:
    """Return a picture to name behind pictures with invented names.

    The prompt stands three ways: as a document for a base model, as turns, and as one text for a chat.

    Args:
        row: of the table.
        number: of the item.
        stock: pictograms and fonts.
        ways: classes, each with a name of its own.
        shots: pictures with their names, as many of each class.
        control: "no shots" leaves them out; "shuffled" shows pictures of other classes in their places. Either way nothing
            tells the names apart, so that ranking them is right by chance alone.
    """
    rng = random.Random(f"named {ways} {shots} {number}")  # controls ask the same
    found = pick_concepts(2 * ways, rng, stock=stock, held_out=True)
    classes, others = found[:ways], found[ways:]
    names = invent_names(ways, rng, held_out=True)
    order = [place for place in range(ways) for _ in range(shots // ways)]
    rng.shuffle(order)
    asked = rng.randrange(ways)
    numbers = rng.sample(range(1 << 20), shots + 1)
    shown = others if control == "shuffled" else classes
    pictures = [_picture(shown[place], n, stock) for place, n in zip(order, numbers, strict=False)]
    told = [names[place] for place in order]
    if control == "no shots":
        pictures, told = [], []
    pictures.append(_picture(classes[asked], numbers[-1], stock))
    question = Question("named", NAMING[0], names[asked], (f"a {names[asked]}", f"this is a {names[asked]}"))
    return Trial(
        row,
        number,
        tuple(pictures),
        f"{IMAGE}{NAMING[0]}",
        question,
        document="".join(IMAGE + FRAME.format(name) for name in told) + IMAGE,
        turns=tuple((f"{IMAGE}{NAMING[0]}", name) for name in told),
        in_one="".join(f"{IMAGE} {name}\n" for name in told) + f"{IMAGE} {NAMING[0]}",
        choices=tuple(names),
    )


def styled_trial(row: str, number: int, stock: Stock, *, shots: int) -> Trial:
    """Return a picture to caption behind ``shots`` captions in a style that training never uses."""
    rng = random.Random(f"styled {number}")  # the same style and query whatever the shots
    style = pick_style(rng, held_out=True)
    seeds = [TESTING_SEEDS + rng.getrandbits(39) for _ in range(9)]
    scenes = [make_scene(seed, ANY, stock=stock) for seed in (*seeds[: min(shots, 8)], seeds[-1])]
    told = [styled(scene, style) for scene in scenes]
    pictures = tuple(draw_scene(scene, stock=stock) for scene in scenes)
    lead = f"{IMAGE}{CAPTION}"
    return Trial(
        row,
        number,
        pictures,
        f"{IMAGE}Write a caption.",
        Question("styled", "Write a caption.", told[-1]),
        document="".join(f"{lead} {text}\n" for text in told[:-1]) + lead,
        turns=tuple((f"{IMAGE}Write a caption.", text) for text in told[:-1]),
    )


def _picture(concept: Concept, number: int, stock: Stock) -> Image.Image:
    return draw_scene(exemplar(concept, number, stock=stock, test=True), stock=stock)
