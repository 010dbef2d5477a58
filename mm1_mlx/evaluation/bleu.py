"""Score captions by BLEU, the share of their n-grams that a reference has too.

Source: Papineni, Roukos, Ward and Zhu, "BLEU: a Method for Automatic Evaluation of Machine Translation" (ACL 2002), as
``pycocoevalcap`` computes it, with the reference closest in length and its way around divisions by zero.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mm1_mlx.evaluation.captions import LONGEST_NGRAM, Ngram, Pair, count_ngrams, pair_words

SMALL, TINY = 1e-9, 1e-15  # so that nothing right of nothing written gives almost 0


@dataclass(frozen=True)
class Counts:
    """The counts that BLEU needs of a caption, or their sums over captions; each list has an entry for each n."""

    written: list[int]  # n-grams of the candidate
    right: list[int]  # those of them that are in a reference too
    num_words: int
    num_reference_words: int


def bleu(
    candidates: dict[str, str], references: dict[str, list[str]]
) -> tuple[list[float], dict[str, list[float]]]:
    """Return BLEU-1 to BLEU-4 of all captions together, and of each caption.

    The scores of all together are not the means of the scores of each.

    Args:
        candidates: A caption for each key, as written.
        references: The captions that people wrote, for the same keys.

    Raises:
        DataError: there is nothing to score, or the keys differ, or a key has no reference.
    """
    counts = {key: _count(pair) for key, pair in pair_words(candidates, references).items()}
    return _score(_add_up(list(counts.values()))), {key: _score(count) for key, count in counts.items()}


def _count(pair: Pair) -> Counts:
    most: Counter[Ngram] = Counter()
    for reference in pair.references:
        most |= count_ngrams(reference)
    num_words = len(pair.candidate)
    written, right = [0] * LONGEST_NGRAM, [0] * LONGEST_NGRAM
    for ngram, count in count_ngrams(pair.candidate).items():
        written[len(ngram) - 1] += count
        right[len(ngram) - 1] += min(count, most[ngram])
    _, closest = min((abs(len(reference) - num_words), len(reference)) for reference in pair.references)
    return Counts(written, right, num_words, closest)


def _add_up(counts: Sequence[Counts]) -> Counts:
    return Counts(
        [sum(column) for column in zip(*(count.written for count in counts), strict=True)],
        [sum(column) for column in zip(*(count.right for count in counts), strict=True)],
        sum(count.num_words for count in counts),
        sum(count.num_reference_words for count in counts),
    )


def _score(counts: Counts) -> list[float]:
    ratio = (counts.num_words + TINY) / (counts.num_reference_words + SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores = []
    product = 1.0
    for n, (written, right) in enumerate(zip(counts.written, counts.right, strict=True), start=1):
        product *= (right + TINY) / (written + SMALL)
        scores.append(product ** (1 / n) * brevity)
    return scores
