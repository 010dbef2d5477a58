"""Test items of the wider tiny world: what is shown and asked, and whether an answer is right.

The name of a table row and a number decide an item. Scenes have seeds of ``TESTING_SEEDS`` and above; shots have
classes and names that training never uses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from mm1_mlx.inputs.few_shot import ANSWER, QUESTION, RATIONALE
from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.asking import Question, ask, ask_caption
from mm1_mlx.tiny.comparing import PAIR_KINDS, compare
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.judging import is_right
from mm1_mlx.tiny.looks import ANY, LOOKS, Look
from mm1_mlx.tiny.making import make_empty_scene, make_scene
from mm1_mlx.tiny.outside import draw_outside_picture
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.stock import THIRD_STYLE, Stock
from mm1_mlx.tiny.telling import OUTSIDE, phrase
from mm1_mlx.tiny.world import SEED_BITS, TESTING_SEEDS

SEEDS_A_NUMBER = 1 << 16  # how many scenes are tried for an item until one fits the question


@dataclass(frozen=True)
class Trial:
    """One item of a test."""

    row: str
    number: int
    pictures: tuple[Image.Image, ...]
    text: str  # what a chat is asked, with ``<image>`` for each picture
    question: Question  # with the right answer
    document: str = ""  # what a base model continues; "" where there is no such prompt
    turns: tuple[tuple[str, str], ...] = ()  # shots as turns before ``text``; their pictures come first
    in_one: str = ""  # shots and query in one text for a chat
    choices: tuple[str, ...] = ()  # answers to rank

    def is_right(self, answer: str) -> bool:
        """Tell whether ``answer`` is a right answer to the question."""
        return is_right(self.question, answer)


def write_plain_document(question: str) -> str:
    """Return the prompt of one question for a base model."""
    return f"{IMAGE}{QUESTION} {question} {ANSWER}"


def make_question_trial(
    row: str,
    number: int,
    stock: Stock,
    *,
    kinds: Sequence[str],
    looks: Sequence[Look] = (ANY,),
    held_out: bool = False,
    longest: int = 126,
) -> Trial:
    """Make an item that asks a question about one picture.

    Args:
        row: name of the row of the table.
        number: number of the item in its row.
        stock: pictograms and fonts.
        kinds: kinds of questions; the items use them in turn.
        looks: looks of scenes; the items use them in turn too.
        held_out: use wordings that training never uses.
        longest: longer side of the picture in pixels.
    """
    kind, look = kinds[number % len(kinds)], looks[number % len(looks)]
    if kind == "name":
        look = replace(look, numbers=(1,))
    for attempt in range(SEEDS_A_NUMBER):
        seed = TESTING_SEEDS + number * SEEDS_A_NUMBER + attempt
        scene = make_scene(seed, look, stock=stock)
        question = ask(kind, scene, random.Random(f"{row} {seed}"), held_out=held_out, errors=False)
        if question is not None:
            return _make_trial_about(row, number, scene, question, longest, stock)
    raise AssertionError(f"no scene can be asked about {kind}")


def _make_trial_about(
    row: str, number: int, scene: Scene, question: Question, longest: int, stock: Stock
) -> Trial:
    picture = draw_scene(scene, longest, stock=stock)
    return Trial(
        row, number, (picture,), f"{IMAGE}{question.text}", question, write_plain_document(question.text)
    )


def make_counting_trial(row: str, number: int, stock: Stock, *, held_out: bool = False) -> Trial:
    """Make an item that asks for a count of 0 to 8 things, each number equally often."""
    things = number % 9
    look = replace(LOOKS["any"] if number % 2 else LOOKS["counting"], numbers=(things,))
    for attempt in range(SEEDS_A_NUMBER):
        seed = TESTING_SEEDS + number * SEEDS_A_NUMBER + attempt
        scene = make_scene(seed, look, stock=stock) if things else make_empty_scene(seed)
        if len(scene.things) == things:
            question = ask(
                "count_all", scene, random.Random(f"{row} {seed}"), held_out=held_out, errors=False
            )
            if question is not None:
                return _make_trial_about(row, number, scene, question, 126, stock)
    raise AssertionError(f"no scene has {things} things")


def make_outside_trial(row: str, number: int, stock: Stock) -> Trial:
    """Make an item with a picture of a kind that training never shows, which should be refused."""
    rng = random.Random(f"{row} {number}")
    scene = make_scene(TESTING_SEEDS + number, stock=stock)
    kind = rng.choice(("caption", "count_all", "existence"))
    asked = ask(kind, scene, rng, errors=False) or ask_caption(scene, rng, errors=False)
    question = replace(asked, kind="outside", answer=OUTSIDE, also=())
    picture = draw_outside_picture(TESTING_SEEDS + number, held_out=True, stock=stock)
    return Trial(row, number, (picture,), f"{IMAGE}{asked.text}", question, write_plain_document(asked.text))


def make_comparing_trial(row: str, number: int, stock: Stock) -> Trial:
    """Make an item that asks a question about two pictures."""
    kind = tuple(PAIR_KINDS)[number % len(PAIR_KINDS)]
    scenes, question = compare(kind, TESTING_SEEDS + number, stock=stock, errors=False)
    pictures = tuple(draw_scene(scene, stock=stock) for scene in scenes)
    document = IMAGE + write_plain_document(question.text)
    return Trial(row, number, pictures, f"{IMAGE}{IMAGE}{question.text}", question, document)


def make_third_style_trial(row: str, number: int, stock: Stock) -> Trial:
    """Make an item that asks for the name of a trained pictogram, drawn in a style that training never shows."""
    drawn_in = replace(stock, sets=(THIRD_STYLE,))
    return make_question_trial(row, number, drawn_in, kinds=("name",), looks=(LOOKS["pictograms"],))


def make_aloud_trial(row: str, number: int, stock: Stock, *, rationale: bool, shots: int = 8) -> Trial:
    """Make an item that asks for a count of 5 to 8 things after ``shots`` worked examples.

    With ``rationale``, the examples count the things one by one before they answer.
    """
    rng = random.Random(f"aloud {number}")  # the same scenes both ways
    look = replace(LOOKS["counting"], numbers=(5, 6, 7, 8))
    asked = "How many things are there?"
    pictures, document, answer = [], "", ""
    for place in range(shots + 1):
        scene = make_scene(TESTING_SEEDS + rng.getrandbits(SEED_BITS), look, stock=stock)
        pictures.append(draw_scene(scene, stock=stock))
        answer = str(len(scene.things))
        steps = ", ".join(f"{n} {phrase(thing)}" for n, thing in enumerate(scene.things, 1))
        begun = f"{IMAGE}{QUESTION} {asked} {RATIONALE if rationale else ANSWER}"
        ended = f"{steps}. {ANSWER} {answer}" if rationale else answer
        document += begun if place == shots else f"{begun} {ended}\n"
    question = Question("rationale" if rationale else "count_all", asked, answer)
    return Trial(row, number, tuple(pictures), f"{IMAGE}{asked}", question, document)
