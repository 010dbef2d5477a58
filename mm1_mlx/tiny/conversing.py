"""Conversations for tuning: questions with and without pictures, pictures to refuse, and shots.

Source: MM1 (arXiv:2403.09611), "Supervised Fine-Tuning".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.asking import KINDS, ask, ask_caption
from mm1_mlx.tiny.comparing import PAIR_KINDS, compare
from mm1_mlx.tiny.concepts import EXEMPLARS, draw_exemplar, pick_concepts
from mm1_mlx.tiny.conversations import SYSTEM_PROMPTS, WITHOUT_PICTURE
from mm1_mlx.tiny.documents import draw_new_scene, pick_name_order
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.inventing import invent_names
from mm1_mlx.tiny.looks import ANY, LOOKS, Look
from mm1_mlx.tiny.making import make_empty_scene, make_scene
from mm1_mlx.tiny.outside import draw_outside_picture
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.stock import Stock
from mm1_mlx.tiny.telling import NO_PICTURE, OUTSIDE
from mm1_mlx.tiny.world import SEED_BITS

LARGER = (96, 160, 224, 300)  # pixels of the longer side: some pictures are not drawn at the encoder's 126
SMALL_PRINT = replace(
    LOOKS["plain"],
    tones={"white": 3.0, "light": 3.0, "dark": 1.0, "black": 2.0},
    kinds={"letter": 1.0, "digit": 1.0, "circle": 0.5, "star": 0.5},
    sizes=(0.05, 0.075),
    numbers=(1, 2, 3, 4),
)
WEIGHTS = {  # how often each kind of question is asked about one picture
    **{
        "color": 10,
        "shape": 8,
        "name": 8,
        "existence": 12,
        "size": 6,
        "count_all": 10,
        "count_some": 9,
        "place": 9,
    },
    **{
        "region": 4,
        "relation": 7,
        "relative": 7,
        "symbol": 7,
        "word": 8,
        "check": 5,
        "absent": 5,
        "colors": 2,
    },
    **{"anything": 1, "caption": 9, "detail": 3, "rationale": 3},
}
FIT = {  # the looks of scenes about which such a question can usually be asked
    **{"word": ("words",), "symbol": ("symbols", "any"), "shape": ("shapes",), "color": ("shapes", "any")},
    **{"count_all": ("counting", "any"), "count_some": ("counting",), "name": ("pictograms", "any")},
    **{"colors": ("counting",), "rationale": ("counting",), "caption": ("any", "any", "words")},
}
NAMING = (  # none of these asks for a thing's usual name, so that questions for that keep their answer
    *(
        "What do we call this?",
        "Which one is this?",
        "Which name does it go by?",
        "And this?",
        "Its name?",
        "Name?",
    ),
    *("What is the new name of this?", "What did I call this?", ""),
)


@dataclass
class Talk:
    """A conversation while it is written."""

    pictures: list[Image.Image] = field(default_factory=list)
    turns: list[tuple[str, str]] = field(default_factory=list)  # question with ``<image>``, answer
    system: str = ""

    def row(self) -> dict[str, Any]:
        """Return the conversation as a chat row; a question without words is a picture alone."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return {"images": self.pictures, "messages": messages}


def ask_about_picture(rng: random.Random, stock: Stock) -> Talk:
    """Make a conversation of one to five questions about a picture."""
    first = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
    look = LOOKS[rng.choice(FIT.get(first, ("any",)))]
    scene, talk = _pick_scene(rng, stock, look, first), Talk()
    longest = 126 if rng.random() < 0.85 else rng.choice(LARGER)
    talk.pictures.append(draw_scene(scene, longest, stock=stock))
    _ask_about(talk, scene, rng, first)
    return talk


def _pick_scene(rng: random.Random, stock: Stock, look: Look, kind: str) -> Scene:
    """Return a scene that a question of ``kind`` can be asked about."""
    if kind in ("count_all", "anything", "existence", "caption", "absent") and rng.random() < 0.08:
        return make_empty_scene(rng.getrandbits(SEED_BITS))
    if kind == "name":
        look = replace(look, numbers=(1,))
    while True:
        scene = make_scene(rng.getrandbits(SEED_BITS), look, stock=stock)
        if ask(kind, scene, random.Random(0)) is not None:
            return scene


def _ask_about(talk: Talk, scene: Scene, rng: random.Random, first: str) -> None:
    """Add a question of the kind ``first`` and then others; the picture stands before or after the first one."""
    kinds = [first, *rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()), k=rng.choice((0, 0, 1, 2, 4)))]
    for kind in kinds:
        question = ask(kind, scene, rng)
        if question is None or any(question.text == text for text, _ in talk.turns):
            continue
        talk.turns.append((question.text, question.answer))
    if not talk.turns:
        talk.turns.append(("Is there anything?", "yes" if scene.things else "no"))
    text, answer = talk.turns[0]
    talk.turns[0] = (place_picture(text, rng), answer)


def place_picture(text: str, rng: random.Random) -> str:
    """Return ``text`` with ``<image>`` for its picture, which usually stands before the text."""
    where = rng.random()
    return f"{IMAGE}{text}" if where < 0.75 else f"{IMAGE}\n{text}" if where < 0.87 else f"{text}{IMAGE}"


def ask_about_outside(rng: random.Random, stock: Stock) -> Talk:
    """Make a conversation about a picture from outside the tiny world, which the answers refuse."""
    talk = Talk([draw_outside_picture(rng.getrandbits(SEED_BITS), stock=stock)])
    scene = make_scene(rng.getrandbits(SEED_BITS), ANY, stock=stock)
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.choice(
            ("caption", "caption", "count_all", "existence", "absent", "name", "color", "place")
        )
        question = ask(kind, scene, rng) or ask_caption(scene, rng)
        talk.turns.append((place_picture(question.text, rng) if not talk.turns else question.text, OUTSIDE))
    return talk


def ask_about_pair(rng: random.Random, stock: Stock) -> Talk:
    """Make a conversation of one question about two pictures."""
    kind = rng.choice(tuple(PAIR_KINDS))
    scenes, question = compare(kind, rng.getrandbits(SEED_BITS), stock=stock)
    form = rng.choice(("{0}{0}{1}", "{0}{0}{1}", "{0} {0} {1}", "{0}\n{0}\n{1}", "{1}{0}{0}"))
    pictures = [draw_scene(scene, stock=stock) for scene in scenes]
    return Talk(pictures, [(form.format(IMAGE, question.text), question.answer)])


def ask_about_nothing(rng: random.Random, stock: Stock) -> Talk:
    """Make a conversation without a picture: greetings, or questions whose answer says that a picture is missing."""
    talk = Talk()
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.5:
            talk.turns.append(rng.choice(WITHOUT_PICTURE))
        else:
            scene = make_scene(rng.getrandbits(SEED_BITS), ANY, stock=stock)
            question = ask(rng.choice(tuple(KINDS)), scene, rng) or ask_caption(scene, rng)
            talk.turns.append((question.text, NO_PICTURE))
    return talk


def teach_names_in_turns(rng: random.Random, stock: Stock) -> Talk:
    """Teach invented names turn by turn: each picture with its name as the answer."""
    talk, asked = Talk(), rng.choice(NAMING)
    frame = rng.choice(("{}", "{}", "a {}", "A {}.", "This is a {}.", "It is a {}."))
    for picture, name in _draw_shots(rng, stock):
        talk.pictures.append(picture)
        talk.turns.append((f"{IMAGE}{asked}", frame.format(name)))
    return talk


def teach_names_in_one_prompt(rng: random.Random, stock: Stock) -> Talk:
    """Teach invented names in one prompt that ends with a picture to name."""
    *shots, (picture, name) = _draw_shots(rng, stock)
    shown = rng.choice(
        ("{0} {1}\n", "{0} is a {1}. ", "{0} = {1}\n", "{0}: {1}; ", "This is a {1}: {0}\n", "{0}{1}, ")
    )
    asked = rng.choice(("{0} What is this?", "{0} is a", "And {0}?", "What is {0}?", "{0}", "{0} Name it."))
    text = "".join(shown.format(IMAGE, name) for _, name in shots) + asked.format(IMAGE)
    return Talk([*(p for p, _ in shots), picture], [(text, name)])


def ask_in_turns(rng: random.Random, stock: Stock) -> Talk:
    """Make a conversation that asks the same kind of question about one picture after another."""
    talk = Talk()
    kind = rng.choice(("color", "shape", "count_all", "place", "caption", "name", "symbol", "existence"))
    while len(talk.turns) < rng.randint(2, 5):
        scene, picture = draw_new_scene(
            rng, stock, LOOKS[rng.choice(FIT.get(kind, ("any",)))], single=kind == "name"
        )
        question = ask(kind, scene, rng)
        if question is not None:
            talk.pictures.append(picture)
            talk.turns.append((f"{IMAGE}{question.text}", question.answer))
    return talk


def ask_about_small_print(rng: random.Random, stock: Stock) -> Talk:
    """Make a conversation about a larger picture whose things are too small for one view but clear in sub-images."""
    talk = Talk()
    kind = rng.choice(("symbol", "symbol", "color", "count_all", "caption"))
    scene = _pick_scene(rng, stock, SMALL_PRINT, kind)
    talk.pictures.append(draw_scene(scene, rng.choice((252, 300, 378)), stock=stock))
    _ask_about(talk, scene, rng, kind)
    return talk


def _draw_shots(rng: random.Random, stock: Stock) -> list[tuple[Image.Image, str]]:
    ways = rng.choice((2, 2, 2, 3, 4))
    found, names = pick_concepts(ways, rng, stock=stock), invent_names(ways, rng)
    order = pick_name_order(ways, rng.randint(ways + 1, 10), rng)
    return [(draw_exemplar(found[p], rng.randrange(EXEMPLARS), stock), names[p]) for p in order]


@dataclass(frozen=True)
class TalkKind:
    """A kind of conversation and how often it is held."""

    write: Callable[[random.Random, Stock], Talk]
    weight: float


TALKS = {
    "questions": TalkKind(ask_about_picture, 60.0),
    "refusals": TalkKind(ask_about_outside, 7.0),
    "pairs": TalkKind(ask_about_pair, 7.0),
    "no picture": TalkKind(ask_about_nothing, 2.0),
    "names in turns": TalkKind(teach_names_in_turns, 9.0),
    "names in one prompt": TalkKind(teach_names_in_one_prompt, 8.0),
    "questions in turns": TalkKind(ask_in_turns, 4.0),
    "small print": TalkKind(ask_about_small_print, 3.0),
}


def hold_conversation(rng: random.Random, stock: Stock) -> Talk:
    """Return a random conversation of one of the kinds."""
    kind = rng.choices(tuple(TALKS.values()), [kind.weight for kind in TALKS.values()])[0]
    talk = kind.write(rng, stock)
    if rng.random() < 0.12:
        talk.system = rng.choice(SYSTEM_PROMPTS)
    return talk
