"""Score captions by CIDEr-D, the likeness to what people wrote, rare words counting more than common ones.

Source: Vedantam, Zitnick and Parikh, "CIDEr: Consensus-based Image Description Evaluation" (arXiv:1411.5726), as
``pycocoevalcap`` computes it: what a caption repeats is clipped, a difference in length costs, and the frequency of
words comes from the evaluated references themselves. Papers print 100 times the mean.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mm1_mlx.evaluation.captions import LONGEST_NGRAM, Ngram, count_ngrams, pair_words

LENGTH_SIGMA = 6.0  # words of difference in length by which the score falls to 0.61
SCALE = 10.0


@dataclass(frozen=True)
class Vector:
    """A caption as the weights of its n-grams, with the length of the vector for each n."""

    weights: dict[Ngram, float]
    norms: list[float]
    num_bigrams: int


def cider(candidates: dict[str, str], references: dict[str, list[str]]) -> tuple[float, dict[str, float]]:
    """Return the mean CIDEr-D of all captions, and the score of each.

    A score is 10 for a caption that is equal to its only reference and rarely goes above. With a single picture all
    scores are 0, for then no word is rarer than another.

    Args:
        candidates: A caption for each key.
        references: The captions that people wrote, for the same keys.

    Raises:
        DataError: there is nothing to score, or the keys differ, or a key has no reference.
    """
    words = pair_words(candidates, references)
    counted = {key: [count_ngrams(reference) for reference in pair.references] for key, pair in words.items()}
    rarity = _measure_rarity(list(counted.values()))
    unseen = math.log(len(words))
    scores = {}
    for key, pair in words.items():
        candidate = _make_vector(count_ngrams(pair.candidate), rarity, unseen)
        likeness = [_compare(candidate, _make_vector(counts, rarity, unseen)) for counts in counted[key]]
        scores[key] = SCALE * sum(likeness) / len(likeness)
    return sum(scores.values()) / len(scores), scores


def _measure_rarity(references: Sequence[Sequence[Counter[Ngram]]]) -> dict[Ngram, float]:
    """Return for each n-gram the logarithm of the number of all pictures over that of the pictures with it."""
    pictures = Counter(ngram for captions in references for ngram in set().union(*captions))
    return {ngram: math.log(len(references)) - math.log(count) for ngram, count in pictures.items()}


def _make_vector(counts: Counter[Ngram], rarity: Mapping[Ngram, float], unseen: float) -> Vector:
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in counts.items()}
    squares = [0.0] * LONGEST_NGRAM
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    num_bigrams = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return Vector(weights, [math.sqrt(square) for square in squares], num_bigrams)


def _compare(candidate: Vector, reference: Vector) -> float:
    """Return the mean over n of the clipped cosine, reduced where the captions differ in length."""
    products = [0.0] * LONGEST_NGRAM
    for ngram, weight in candidate.weights.items():
        if ngram in reference.weights:
            expected = reference.weights[ngram]
            products[len(ngram) - 1] += min(weight, expected) * expected
    cosines = [
        product / (ours * theirs)
        for product, ours, theirs in zip(products, candidate.norms, reference.norms, strict=True)
        if ours and theirs
    ]
    difference = candidate.num_bigrams - reference.num_bigrams
    return sum(cosines) / LONGEST_NGRAM * math.exp(-(difference**2) / (2 * LENGTH_SIGMA**2))
