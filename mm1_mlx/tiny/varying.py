"""Vary a question: synonyms, contractions, politeness, no capitals, typing errors."""

from __future__ import annotations

import random
import re

SYNONYMS = (
    (r"\bpicture\b", ("image", "photo", "drawing"), 0.4),
    (r"\bpictures\b", ("images", "photos"), 0.4),
    (r"\bcolor", ("colour",), 0.35),
    (r"\bgrey\b", ("gray",), 0.3),
    (r"\b(What|Where|which|There|That) is\b", (r"\1's",), 0.2),
    (r"\bwhat is\b", ("what's",), 0.2),
    (r"\bI would\b", ("I'd",), 0.5),
    (r"\bI am\b", ("I'm",), 0.5),
    (r"\bdo not\b", ("don't",), 0.5),
)
BEFORE = ("Please", "Hey,", "Hi,", "Look:", "OK,", "Now", "And", "So,", "Quick question:", "Please answer:")
BEHIND = (
    *(
        "Answer with one word.",
        "Answer briefly.",
        "Be short.",
        "Thanks.",
        "Just the answer.",
        "A short answer.",
    ),
    "Please.",
)
TYPING_ERRORS = 0.01  # share of the words


def vary(text: str, rng: random.Random, *, errors: bool = True, keep: tuple[str, ...] = ()) -> str:
    """Return ``text`` as another person might type it.

    Args:
        text: a question.
        rng: makes the random choices.
        errors: allow typing errors.
        keep: words without errors, because the answer depends on each of their letters.
    """
    for pattern, others, chance in SYNONYMS:
        if rng.random() < chance:
            text = re.sub(pattern, rng.choice(others), text)
    if rng.random() < 0.06:
        text = f"{rng.choice(BEFORE)} {text[:1].lower()}{text[1:]}"
    if rng.random() < 0.05:
        text = f"{text} {rng.choice(BEHIND)}"
    if errors:
        text = " ".join(_mistype(word, rng, keep) for word in text.split(" "))
    choice = rng.random()
    if choice < 0.1:
        text = text.lower()
    elif choice < 0.12:
        text = text.upper()
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    return text


def _mistype(word: str, rng: random.Random, keep: tuple[str, ...]) -> str:
    if len(word) < 4 or word.strip("?.,") in keep or rng.random() >= TYPING_ERRORS:
        return word
    place = rng.randrange(1, len(word) - 2)
    one, other = word[place], word[place + 1]
    return word[:place] + rng.choice((other + one, one, one + one + other)) + word[place + 2 :]
