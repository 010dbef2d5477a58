"""BLEU-1 to BLEU-4, equal to pycocoevalcap's."""

import json
import math
from pathlib import Path

import pytest

from mm1_mlx.evaluation.bleu import bleu

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"


def test_golden_scores():
    captions = json.loads((GOLDEN / "cider.json").read_text(encoding="utf-8"))
    expected = json.loads((GOLDEN / "bleu.json").read_text())
    corpus, scores = bleu(captions["candidates"], captions["references"])
    assert corpus == pytest.approx(expected["corpus"], abs=1e-9)
    assert scores.keys() == expected["scores"].keys()
    for key, score in scores.items():
        assert score == pytest.approx(expected["scores"][key], abs=1e-9)


def test_a_repeated_word_counts_as_often_as_one_reference_has_it():
    corpus, _ = bleu({"a": "the the the the"}, {"a": ["the cat on the mat", "the dog ran by"]})
    assert corpus[0] == pytest.approx(2 / 4)


def test_of_two_references_equally_near_in_length_the_shorter_counts():
    corpus, _ = bleu({"a": "one two three"}, {"a": ["one two three four", "one two"]})
    assert corpus[0] == pytest.approx(1)
    corpus, _ = bleu({"a": "one two three"}, {"a": ["one two three four"]})
    assert corpus[0] == pytest.approx(math.exp(1 - 4 / 3))


def test_all_together_is_not_the_mean():
    corpus, scores = bleu({"a": "one", "b": "x y z"}, {"a": ["one"], "b": ["p q r"]})
    assert corpus[0] == pytest.approx(1 / 4)
    assert [scores[key][0] for key in "ab"] == pytest.approx([1, 0])
