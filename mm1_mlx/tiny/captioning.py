"""Caption styles: many ways to describe the same things, each made of a few choices that hold through a document."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mm1_mlx.tiny.nouns import NUMBERS, add_article, capitalise, is_bare, join_words
from mm1_mlx.tiny.scene import Scene, Thing
from mm1_mlx.tiny.telling import find_nearest_place, group_things, phrase, phrase_plural

ITEMS = (
    "article",
    "plain",
    "noun first",
    "number",
    "placed",
    "sized",
    "color only",
    "kind only",
    "brackets",
    "tags",
)
JOINTS = (", ", "; ", " + ", " / ", " | ", ", and ", " & ", " with ", " next to ", " - ")
BEFORE = (
    *(
        "",
        "",
        "",
        "A picture of ",
        "An image of ",
        "A drawing of ",
        "Photo: ",
        "Here: ",
        "I see ",
        "There is ",
        "> ",
    ),
    *(
        "Alt text: ",
        "In view: ",
        "Behold, ",
        "Fig. ",
        "This shows ",
        "Contents: ",
        "[",
        "* ",
        "We drew ",
        "look, ",
    ),
)
BEHIND = (
    *(
        "",
        "",
        "",
        ".",
        ".",
        "!",
        " on {tone} ground.",
        " ({number})",
        " :)",
        " // drawn",
        " - {number} in all",
        "]",
    ),
    *(" in one picture", " here", ", that is all.", " #tiny", ";"),
)
CASES = ("sentence", "sentence", "lower", "lower", "upper", "title")
TONES = {"white": "white", "black": "black", "coloured": "coloured", "middle": "grey"}


@dataclass(frozen=True)
class Style:
    """How a caption is written."""

    items: str = "article"  # one of ITEMS
    joint: str = ", "  # between things
    last: str = " and "  # before the last of them
    before: str = ""
    behind: str = "."
    case: str = "sentence"

    @property
    def held_out(self) -> bool:
        """Whether the style is kept for tests; about one combination in eight is."""
        return random.Random(repr(self)).random() < 0.125


CLEAN = Style()
ALT_TEXT = (
    Style("plain", ", ", ", ", "", "", "lower"),
    Style("plain", ", ", " and ", "image of ", "", "lower"),
    Style("article", ", ", " and ", "Picture of ", "", "sentence"),
    Style("number", ", ", ", ", "", "", "lower"),
)


def pick_style(rng: random.Random, *, held_out: bool = False) -> Style:
    """Return a random style, from those for tests if ``held_out``, else from those for training."""
    while True:
        joint = rng.choice(JOINTS)
        style = Style(
            items=rng.choice(ITEMS),
            joint=joint,
            last=rng.choice((joint, joint, " and ")),
            before=rng.choice(BEFORE),
            behind=rng.choice(BEHIND),
            case=rng.choice(CASES),
        )
        if style.held_out == held_out:
            return style


def write_in_style(scene: Scene, style: Style = CLEAN) -> str:
    """Write a caption of ``scene`` in ``style``."""
    if not scene.things:
        text = "nothing"
    elif style.items in ("article", "plain", "number", "color only", "kind only"):
        text = join_in_style(
            [_describe_group(t, n, style.items) for t, n in group_things(scene.things)], style
        )
    else:
        text = join_in_style([_describe_thing(scene, t, style.items) for t in scene.things], style)
    behind = style.behind.format(
        tone=TONES.get(scene.background.tone, scene.background.tone), number=len(scene.things)
    )
    return _change_case(style.before + text + behind, style.case)


def join_in_style(items: list[str], style: Style) -> str:
    """Join ``items`` with the separators of the style."""
    if style.joint == ", " and style.last == " and ":
        return join_words(items)
    return style.last.join([style.joint.join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def _describe_group(thing: Thing, number: int, items: str) -> str:
    words, several = phrase(thing), phrase_plural(thing)
    if items == "color only" and thing.color:
        words = several = thing.color
    elif items == "kind only":
        words = several = thing.noun
    if number > 1:
        return f"{NUMBERS[number]} {several}"
    if items == "article":
        return words if is_bare(thing.noun) else add_article(words)
    return f"1 {words}" if items == "number" else words


def _describe_thing(scene: Scene, thing: Thing, items: str) -> str:
    if items == "noun first":
        return f"{thing.noun}, {thing.color}" if thing.color else thing.noun
    if items == "placed":
        return f"{phrase(thing)} at the {find_nearest_place(scene, thing)}"
    if items == "sized":
        return f"{thing.size_word} {phrase(thing)}"
    if items == "brackets":
        return f"{thing.noun} ({thing.color})" if thing.color else f"({thing.noun})"
    return "#" + phrase(thing).replace(" ", "")  # tags


def _change_case(text: str, case: str) -> str:
    if case == "lower":
        return text.lower()
    if case == "upper":
        return text.upper()
    return text.title() if case == "title" else capitalise(text)
