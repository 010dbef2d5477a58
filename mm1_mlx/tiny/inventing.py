"""Invented names: drawn anew for every document, so that no weights can hold them. Some are kept for tests."""

from __future__ import annotations

import random
from functools import cache

from mm1_mlx.tiny.nouns import list_unknown_nouns
from mm1_mlx.tiny.stock import pictogram_classes
from mm1_mlx.tiny.words import HELD_OUT_WORDS, TRAINING_WORDS

ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "bl",
    "dr",
    "fl",
    "gr",
    "kl",
    "pr",
)
ONSETS += ("sn", "st", "tr", "sh", "w", "j")
VOWELS = ("a", "e", "i", "o", "u", "oo", "ee")
CODAS = ("", "b", "g", "k", "l", "m", "n", "p", "x", "t", "rp", "nk", "sh")
SYLLABLES = tuple(onset + vowel for onset in ONSETS for vowel in VOWELS)


def invent_names(number: int, rng: random.Random, *, held_out: bool = False) -> list[str]:
    """Invent ``number`` names such as "wug" and "dreepo", no two of which begin with the same two letters.

    Args:
        number: how many names.
        rng: makes the random choices.
        held_out: invent names that training never uses.
    """
    names: list[str] = []
    while len(names) < number:
        name = rng.choice(SYLLABLES) + (rng.choice(CODAS) if rng.random() < 0.5 else rng.choice(SYLLABLES))
        taken = len(name) < 3 or name in _list_real_words() or is_name_held_out(name) != held_out
        if not taken and all(name[:2] != other[:2] for other in names):
            names.append(name)
    return names


def is_name_held_out(name: str) -> bool:
    """Tell whether a name is kept for tests: about one in eight."""
    return random.Random(f"name {name}").random() < 0.125


@cache
def _list_real_words() -> frozenset[str]:
    nouns = (
        *list_unknown_nouns(held_out=False),
        *list_unknown_nouns(held_out=True),
        *(c.name for c in pictogram_classes()),
    )
    return frozenset((*TRAINING_WORDS, *HELD_OUT_WORDS, *(word for noun in nouns for word in noun.split())))
