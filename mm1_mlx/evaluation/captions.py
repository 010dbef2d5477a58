"""Cut candidates and their references into words, as the caption metrics read them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.ptb import ptb_tokens

LONGEST_NGRAM = 4
Ngram = tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A candidate and its references, as words."""

    candidate: list[str]
    references: list[list[str]]


def pair_words(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, Pair]:
    """Return the words of each candidate and of its references, by key.

    Raises:
        DataError: there is no candidate, or the two do not have the same keys, or a reference is missing.
    """
    _check(candidates, references)
    keys = list(candidates)
    written = iter(_cut_words([caption for captions in references.values() for caption in captions]))
    referenced = {key: [next(written) for _ in captions] for key, captions in references.items()}
    words = dict(zip(keys, _cut_words([candidates[key] for key in keys]), strict=True))
    return {key: Pair(words[key], referenced[key]) for key in keys}


def count_ngrams(words: list[str]) -> Counter[Ngram]:
    """Count the n-grams: the runs of one to four words."""
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, LONGEST_NGRAM + 1)
        for start in range(len(words) - n + 1)
    )


def _cut_words(captions: list[str]) -> list[list[str]]:
    """Cut captions into words, each with the next as its following line; hard blanks separate words too."""
    return [
        " ".join(ptb_tokens(caption, following)).split()
        for caption, following in zip(captions, [*captions[1:], ""], strict=True)
    ]


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not candidates:
        raise DataError("`candidates` is empty, expected at least one caption to score.")
    for name, alone in (
        ("candidates without `references`", candidates.keys() - references.keys()),
        ("references without `candidates`", references.keys() - candidates.keys()),
    ):
        if alone:
            some = ", ".join(sorted(map(repr, alone))[:3]) + (", …" if len(alone) > 3 else "")
            raise DataError(f"{len(alone)} {name}: {some}. Both need the same keys.")
    for key, captions in references.items():
        if isinstance(captions, str):
            raise DataError(f"`references` has one caption at {key!r}, expected a list of captions.")
        if not captions:
            raise DataError(f"`references` has no caption at {key!r}, expected at least one.")
