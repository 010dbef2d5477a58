"""Tell whether an answer is right: equal after normalisation; a caption must name every thing and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from mm1_mlx.tiny.asking import Question
from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.nouns import NUMBERS, make_plural
from mm1_mlx.tiny.shapes import SHAPES
from mm1_mlx.tiny.stock import pictogram_classes

SAME: dict[str, str] = {
    **{word: str(number) for number, word in enumerate(NUMBERS) if number},
    **{
        "gray": "grey",
        "center": "middle",
        "centre": "middle",
        "upper": "top",
        "lower": "bottom",
        "zero": "0",
    },
    **{"big": "large", "little": "small", "turquoise": "cyan"},
}
LEADS = re.compile(
    r"^(there (is|are)( \d objects?:)?|it is|it's|this is|i see|a (picture|photo|drawing) of|at|in|on) "
)
LOCATED = re.compile(r" at the (top|bottom|left|right|middle)( left| right)?$")


def is_right(question: Question, answer: str) -> bool:
    """Tell whether ``answer`` is right for ``question``; "Red." counts as "red", and "three" as "3"."""
    if question.kind in ("caption", "detail"):
        return count_named_things(answer) == count_named_things(question.answer)
    if question.kind == "rationale":
        return find_last_number(answer) == find_last_number(question.answer)
    given = simplify(answer)
    return any(given == simplify(right) for right in (question.answer, *question.also))


def simplify(answer: str) -> str:
    """Return an answer in lower case, with digits for numbers, without punctuation, article or lead-in."""
    text = re.sub(r"[\"'.,!?:;]+", "", answer.lower()).strip()
    text = " ".join(SAME.get(word, word) for word in text.split())
    text = LEADS.sub("", text)
    return re.sub(r"^(a|an|the) ", "", text)


def find_last_number(text: str) -> str | None:
    """Return the number that a worked count ends with, or None."""
    words: list[str] = re.findall(r"\w+", text.lower())
    found = re.findall(r"\d+", " ".join(SAME.get(word, word) for word in words))
    return found[-1] if found else None


def count_named_things(caption: str) -> Counter[str]:
    """Count what a caption names: "Two red circles and a dog." has "red circle" twice and "dog" once.

    Sizes and places are ignored.
    """
    text = re.sub(r"[\"']", "", caption.strip().lower()).rstrip(".!")
    text = LEADS.sub("", " ".join(SAME.get(w, w) if w != "one" else w for w in text.split()))
    for name in _list_names_with_and():
        text = text.replace(name, name.replace(" and ", " + "))
    found: Counter[str] = Counter()
    for item in re.split(r", and |, | and ", text):
        item = LOCATED.sub("", item.strip()).replace(" + ", " and ")
        if not item or item.startswith("nothing"):
            continue
        number, _, rest = item.partition(" ")
        if not number.isdigit():
            number, rest = "1", re.sub(r"^(a|an|the|one) ", "", item)
        rest = re.sub(r"^(small|large) ", "", rest)
        found[_make_singular(rest) if int(number) != 1 else rest] += int(number)
    return found


def _make_singular(words: str) -> str:
    color, _, noun = words.partition(" ")
    if color not in COLORS:
        color, noun = "", words
    first, _, sign = noun.partition(" ")
    if first in ("letters", "digits"):
        noun = f"{first[:-1]} {sign}"
    return f"{color} {_list_singulars().get(noun, noun)}".strip()


@cache
def _list_singulars() -> dict[str, str]:
    names = (*SHAPES, *(c.name for c in pictogram_classes()))
    return {make_plural(name): name for name in names}


@cache
def _list_names_with_and() -> tuple[str, ...]:
    names = [c.name for c in pictogram_classes() if " and " in c.name]
    return tuple(sorted([*names, *map(make_plural, names)], key=len, reverse=True))
