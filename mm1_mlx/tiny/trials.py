"""Test items of the wider tiny world: what is shown and asked, and how an answer is judged, a table row at a time.

Every item follows from the name of its row and a number. Scenes have seeds of ``TESTING_SEEDS`` and above, shots show
classes and carry names that training never uses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from mm1_mlx.inputs.few_shot import ANSWER, QUESTION, RATIONALE
from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.asking import Question, ask
from mm1_mlx.tiny.comparing import KINDS as PAIR_KINDS
from mm1_mlx.tiny.comparing import compare
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.judging import is_right
from mm1_mlx.tiny.looks import ANY, LOOKS, Look
from mm1_mlx.tiny.making import empty_scene, make_scene
from mm1_mlx.tiny.outside import outside_picture
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.stock import THIRD_STYLE, Stock
from mm1_mlx.tiny.telling import OUTSIDE, phrase
from mm1_mlx.tiny.world import TESTING_SEEDS

SEEDS_A_NUMBER = 1 << 16  # for each number as many scenes can be tried until one can be asked about


@dataclass(frozen=True)
class Trial:
    """One item of a test."""

    row: str
    number: int
    pictures: tuple[Image.Image, ...]
    text: str  # what a chat is asked, ``<image>`` where a picture goes
    question: Question  # with the right answer
    document: str = ""  # what a base model goes on with; "" where there is no such prompt
    turns: tuple[tuple[str, str], ...] = ()  # shots as turns before ``text``; their pictures come first
    in_one: str = ""  # shots and query in one text for a chat
    choices: tuple[str, ...] = ()  # answers to rank

    def is_right(self, answer: str) -> bool:
        """Tell whether ``answer`` is right."""
        return is_right(self.question, answer)


def plain_document(question: str) -> str:
    """Return the prompt of one question for a base model."""
    return f"{IMAGE}{QUESTION} {question} {ANSWER}"


def asked_trial(
    row: str,
    number: int,
    stock: Stock,
    *,
    kinds: Sequence[str],
    looks: Sequence[Look] = (ANY,),
    held_out: bool = False,
    longest: int = 126,
) -> Trial:
    """Return a question about one picture.

    Args:
        row: of the table.
        number: of the item.
        stock: pictograms and fonts.
        kinds: of questions; items have one after the other.
        looks: of scenes, one after the other too.
        held_out: in wordings that training never uses.
        longest: side of the picture in pixels.
    """
    kind, look = kinds[number % len(kinds)], looks[number % len(looks)]
    if kind == "name":
        look = replace(look, numbers=(1,))
    for attempt in range(SEEDS_A_NUMBER):
        seed = TESTING_SEEDS + number * SEEDS_A_NUMBER + attempt
        scene = make_scene(seed, look, stock=stock)
        question = ask(kind, scene, random.Random(f"{row} {seed}"), held_out=held_out, errors=False)
        if question is not None:
            return _about(row, number, scene, question, longest, stock)
    raise AssertionError(f"no scene can be asked about {kind}")


def _about(row: str, number: int, scene: Scene, question: Question, longest: int, stock: Stock) -> Trial:
    picture = draw_scene(scene, longest, stock=stock)
    return Trial(row, number, (picture,), f"{IMAGE}{question.text}", question, plain_document(question.text))


def counted_trial(row: str, number: int, stock: Stock, *, held_out: bool = False) -> Trial:
    """Return a scene of 0 to 8 things, each number alike often, to be counted."""
    things = number % 9
    look = replace(LOOKS["any"] if number % 2 else LOOKS["counting"], numbers=(things,))
    for attempt in range(SEEDS_A_NUMBER):
        seed = TESTING_SEEDS + number * SEEDS_A_NUMBER + attempt
        scene = make_scene(seed, look, stock=stock) if things else empty_scene(seed)
        if len(scene.things) == things:
            question = ask(
                "count_all", scene, random.Random(f"{row} {seed}"), held_out=held_out, errors=False
            )
            return _about(row, number, scene, question, 126, stock)
    raise AssertionError(f"no scene has {things} things")


def outside_trial(row: str, number: int, stock: Stock) -> Trial:
    """Return a picture of a kind that training never shows, and that should be refused."""
    rng = random.Random(f"{row} {number}")
    scene = make_scene(TESTING_SEEDS + number, stock=stock)
    kind = rng.choice(("caption", "count_all", "existence"))
    asked = ask(kind, scene, rng, errors=False)
    question = replace(asked, kind="outside", answer=OUTSIDE, also=())
    picture = outside_picture(TESTING_SEEDS + number, held_out=True, stock=stock)
    return Trial(row, number, (picture,), f"{IMAGE}{asked.text}", question, plain_document(asked.text))


def compared_trial(row: str, number: int, stock: Stock) -> Trial:
    """Return a question about two pictures."""
    kind = tuple(PAIR_KINDS)[number % len(PAIR_KINDS)]
    scenes, question = compare(kind, TESTING_SEEDS + number, stock=stock, errors=False)
    pictures = tuple(draw_scene(scene, stock=stock) for scene in scenes)
    document = IMAGE + plain_document(question.text)
    return Trial(row, number, pictures, f"{IMAGE}{IMAGE}{question.text}", question, document)


def third_style_trial(row: str, number: int, stock: Stock) -> Trial:
    """Return a pictogram of a trained class in a set that training never shows."""
    drawn_in = replace(stock, sets=(THIRD_STYLE,))
    return asked_trial(row, number, drawn_in, kinds=("name",), looks=(LOOKS["pictograms"],))


def aloud_trial(row: str, number: int, stock: Stock, *, rationale: bool, shots: int = 8) -> Trial:
    """Return 5 to 8 things to count behind ``shots`` worked examples, with or without a rationale."""
    rng = random.Random(f"aloud {number}")  # the same scenes both ways
    look = replace(LOOKS["counting"], numbers=(5, 6, 7, 8))
    asked = "How many things are there?"
    pictures, document = [], ""
    for place in range(shots + 1):
        scene = make_scene(TESTING_SEEDS + rng.getrandbits(39), look, stock=stock)
        pictures.append(draw_scene(scene, stock=stock))
        answer = str(len(scene.things))
        steps = ", ".join(f"{n} {phrase(thing)}" for n, thing in enumerate(scene.things, 1))
        begun = f"{IMAGE}{QUESTION} {asked} {RATIONALE if rationale else ANSWER}"
        ended = f"{steps}. {ANSWER} {answer}" if rationale else answer
        document += begun if place == shots else f"{begun} {ended}\n"
    question = Question("rationale" if rationale else "count_all", asked, answer)
    return Trial(row, number, tuple(pictures), f"{IMAGE}{asked}", question, document)
