"""Caption styles: the same things told in many ways, each made of a few choices that hold through a document."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mm1_mlx.tiny.nouns import NUMBERS, article, capital, is_bare, joined
from mm1_mlx.tiny.scene import Scene, Thing
from mm1_mlx.tiny.telling import grouped, nearest_place, phrase, plural_phrase

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
        """Tell whether the style is kept for tests: about one combination in eight."""
        return random.Random(repr(self)).random() < 0.125


CLEAN = Style()
ALT_TEXT = (
    Style("plain", ", ", ", ", "", "", "lower"),
    Style("plain", ", ", " and ", "image of ", "", "lower"),
    Style("article", ", ", " and ", "Picture of ", "", "sentence"),
    Style("number", ", ", ", ", "", "", "lower"),
)


def pick_style(rng: random.Random, *, held_out: bool = False) -> Style:
    """Return a style; ``held_out`` ones are for tests."""
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


def styled(scene: Scene, style: Style = CLEAN) -> str:
    """Return what ``scene`` shows, in ``style``."""
    if not scene.things:
        text = "nothing"
    elif style.items in ("article", "plain", "number", "color only", "kind only"):
        text = joined_with([_group(t, n, style.items) for t, n in grouped(scene.things)], style)
    else:
        text = joined_with([_thing(scene, t, style.items) for t in scene.things], style)
    behind = style.behind.format(
        tone=TONES.get(scene.background.tone, scene.background.tone), number=len(scene.things)
    )
    return _cased(style.before + text + behind, style.case)


def joined_with(items: list[str], style: Style) -> str:
    """Return ``items`` with the style's joints."""
    if style.joint == ", " and style.last == " and ":
        return joined(items)
    return style.last.join([style.joint.join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def _group(thing: Thing, number: int, items: str) -> str:
    words, several = phrase(thing), plural_phrase(thing)
    if items == "color only" and thing.color:
        words = several = thing.color
    elif items == "kind only":
        words = several = thing.noun
    if number > 1:
        return f"{NUMBERS[number]} {several}"
    if items == "article":
        return words if is_bare(thing.noun) else article(words)
    return f"1 {words}" if items == "number" else words


def _thing(scene: Scene, thing: Thing, items: str) -> str:
    if items == "noun first":
        return f"{thing.noun}, {thing.color}" if thing.color else thing.noun
    if items == "placed":
        return f"{phrase(thing)} at the {nearest_place(scene, thing)}"
    if items == "sized":
        return f"{thing.size_word} {phrase(thing)}"
    if items == "brackets":
        return f"{thing.noun} ({thing.color})" if thing.color else f"({thing.noun})"
    return "#" + phrase(thing).replace(" ", "")  # tags


def _cased(text: str, case: str) -> str:
    if case == "lower":
        return text.lower()
    if case == "upper":
        return text.upper()
    return text.title() if case == "title" else capital(text)
