"""Training sequences of the tiny world: pictures, questions and answers as token ids."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mm1_mlx.tiny.questions import KINDS, Question, ask_caption, ask_region, caption, make_question
from mm1_mlx.tiny.tokenizer import ASSISTANT_ID, BEGIN_ID, END_ID, IMAGE_ID, SYSTEM_ID, USER_ID
from mm1_mlx.tiny.world import PLACES, Scene

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You answer questions about pictures.",
    "Be short.",
    "You see a picture and answer.",
    "Answer the question about the picture.",
    "You are MM1.",
)
WEIGHTS = {"color": 5, "shape": 5, "count": 6, "existence": 6, "size": 2, "place": 2, "relation": 2}
WEIGHTS |= {"region": 3, "symbol": 3, "check": 2, "absent": 1}
WITHOUT_PICTURE = (
    ("Hello!", "Hello! Show me a picture of the tiny world."),
    ("Hi", "Hello! Show me a picture of the tiny world."),
    ("Who are you?", "I am mm1-tiny. I answer questions about pictures of the tiny world."),
    ("What can you do?", "I answer questions about pictures of the tiny world."),
    ("What is your name?", "I am mm1-tiny."),
    ("Thank you.", "You are welcome."),
)
NO_PICTURE = "There is no picture."

assert set(WEIGHTS) == set(KINDS)


@dataclass
class Sequence:
    """Token ids, with a mark on those that count in the loss; one ``<image>`` id stands for a whole picture."""

    ids: list[int] = field(default_factory=list)
    supervised: list[bool] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)

    def add(self, ids: list[int], *, supervised: bool) -> None:
        self.ids += ids
        self.supervised += [supervised] * len(ids)


Encode = Callable[[str], list[int]]


def make_sequence(
    scene: Scene, encode: Encode, rng: random.Random, *, max_ids: int, dense: float = 0.0
) -> Sequence:
    """Write one training sequence about ``scene`` of at most ``max_ids`` ids.

    Most are conversations of short questions; some have the plain formats of few-shot prompts, or only text.

    Args:
        scene: what the sequence is about.
        encode: turns text into token ids.
        rng: makes the random choices.
        max_ids: the longest sequence, a picture counted as one id.
        dense: share of the sequences that describe the picture place by place. To read what stands at a
            place is easier to learn than to find a thing by its name, and opens the way to it.
    """
    sequence = Sequence()
    sequence.add([BEGIN_ID], supervised=False)
    choice = rng.random()
    if rng.random() < dense:
        _write_conversation(sequence, scene, encode, rng, max_ids, places=rng.sample(PLACES, len(PLACES)))
    elif choice < 0.03:
        _write_without_picture(sequence, scene, encode, rng, max_ids)
    elif choice < 0.09:
        _write_plain(sequence, scene, encode, rng, max_ids)
    else:
        _write_conversation(sequence, scene, encode, rng, max_ids)
    return sequence


def _pick_question(scene: Scene, rng: random.Random) -> Question:
    while True:
        kind = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
        question = make_question(scene, kind, rng)
        if question is not None:
            return question


def _write_conversation(
    sequence: Sequence,
    scene: Scene,
    encode: Encode,
    rng: random.Random,
    max_ids: int,
    places: list[str] | None = None,
) -> None:
    sequence.scenes.append(scene)
    if rng.random() < 0.15:
        sequence.add([SYSTEM_ID, *encode(rng.choice(SYSTEM_PROMPTS)), END_ID], supervised=False)
    captions = rng.random()
    first = True
    while True:
        if places:
            question = ask_region(scene, places.pop(), rng)
        elif captions < 0.15 and first:
            question = ask_caption(scene, rng, detailed=captions >= 0.10)
        else:
            question = _pick_question(scene, rng)
        user = encode(question.text)
        if first:
            where = rng.random()
            user = [IMAGE_ID, *user] if where < 0.85 else [*user, IMAGE_ID]
            if where > 0.95:
                user = [IMAGE_ID, *encode("\n" + question.text)]
        answer = [*encode(question.answer), END_ID]
        if not first and len(sequence.ids) + len(user) + len(answer) + 3 > max_ids:
            return
        sequence.add([USER_ID, *user, END_ID, ASSISTANT_ID], supervised=False)
        sequence.add(answer, supervised=True)
        first = False


def _write_plain(sequence: Sequence, scene: Scene, encode: Encode, rng: random.Random, max_ids: int) -> None:
    """Add a document: ``<image>A photo of …``, or lines ``Question: … Short answer: …`` after one ``<image>``."""
    sequence.scenes.append(scene)
    sequence.add([IMAGE_ID], supervised=False)
    if rng.random() < 0.4:
        sequence.add(encode("A photo of"), supervised=False)
        text = caption(scene)
        sequence.add([*encode(" " + text[0].lower() + text[1:]), END_ID], supervised=True)
        return
    while True:
        question = _pick_question(scene, rng)
        asked = encode(f"Question: {question.text} Short answer:")
        answer = encode(f" {question.answer}\n")
        if len(sequence.ids) + len(asked) + len(answer) > max_ids:
            return
        sequence.add(asked, supervised=False)
        sequence.add(answer, supervised=True)


def _write_without_picture(
    sequence: Sequence, scene: Scene, encode: Encode, rng: random.Random, max_ids: int
) -> None:
    while True:
        text, answer = rng.choice(WITHOUT_PICTURE)
        if rng.random() < 0.5:
            text, answer = _pick_question(scene, rng).text, NO_PICTURE
        user, reply = encode(text), [*encode(answer), END_ID]
        if len(sequence.ids) + len(user) + len(reply) + 3 > max_ids:
            return
        sequence.add([USER_ID, *user, END_ID, ASSISTANT_ID], supervised=False)
        sequence.add(reply, supervised=True)
