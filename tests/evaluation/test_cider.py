"""CIDEr-D, equal to pycocoevalcap's."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.bleu import bleu
from mm1_mlx.evaluation.cider import cider

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
WORDS = st.sampled_from(["dog", "cats", "on", "the", "red", "table", "sitting"])
CAPTIONS = st.lists(WORDS, max_size=6).map(" ".join)
REFERENCES = st.dictionaries(
    st.text("xyz", min_size=1, max_size=3), st.lists(CAPTIONS, min_size=1, max_size=3), min_size=1, max_size=5
)
OTHERS = {"other": ["nothing like it at all"], "third": ["quite another thing here"]}
ALIKE = {key: texts[0] for key, texts in OTHERS.items()}


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "cider.json").read_text(encoding="utf-8"))


def test_golden_scores(golden):
    mean, scores = cider(golden["candidates"], golden["references"])
    assert mean == pytest.approx(golden["mean"], abs=1e-6)
    assert scores == pytest.approx(golden["scores"], abs=1e-6)


@given(st.lists(st.integers(0, 10**6), min_size=4, max_size=9, unique=True))
def test_a_caption_equal_to_its_only_reference_and_unlike_all_others_scores_ten(numbers):
    caption = " ".join(f"word{number}" for number in numbers)
    _, scores = cider({"it": caption, **ALIKE}, {"it": [caption], **OTHERS})
    assert scores["it"] == pytest.approx(10)


@given(REFERENCES, st.data())
def test_the_order_of_keys_and_of_references_does_not_matter(references, data):
    candidates = {key: data.draw(CAPTIONS) for key in references}
    keys = data.draw(st.permutations(list(references)))
    mean, scores = cider(candidates, references)
    again, same = cider(
        {key: candidates[key] for key in sorted(keys)}, {key: references[key][::-1] for key in keys}
    )
    assert again == pytest.approx(mean)
    assert same == pytest.approx(scores)
    assert mean == pytest.approx(sum(scores.values()) / len(scores))
    assert all(score >= 0 for score in scores.values())


def test_repeating_a_word_does_not_help():
    references = {"it": ["brown bear eats fresh salmon"], **OTHERS}
    _, once = cider({"it": "brown bear eats fresh salmon", **ALIKE}, references)
    _, twice = cider({"it": "brown bear bear eats fresh salmon", **ALIKE}, references)
    assert twice["it"] < once["it"]


def test_a_difference_in_length_costs_by_the_number_of_bigrams():
    references = {"it": ["brown bear"], **OTHERS}
    _, scores = cider({"it": "brown bear", **ALIKE}, references)
    assert scores["it"] == pytest.approx(5)  # it has no trigrams, and no 4-grams
    _, longer = cider({"it": "brown bear. bear bear", **ALIKE}, references)
    one, two = 2 / math.sqrt(2 * 10), 1 / math.sqrt(5)
    assert longer["it"] == pytest.approx(10 / 4 * (one + two) * math.exp(-(2**2) / (2 * 6**2)))


def test_a_single_picture_scores_zero():
    assert cider({"it": "a dog runs fast"}, {"it": ["a dog runs fast"]}) == (0.0, {"it": 0.0})


@pytest.mark.parametrize("metric", [cider, bleu])
@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {}, "`candidates` is empty"),
        ({"a": "x", "b": "y"}, {"a": ["x"]}, "1 candidates without `references`: 'b'"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"], "c": ["z"]}, "2 references without `candidates`: 'b', 'c'"),
        ({"a": "x"}, {"a": []}, "`references` has no caption at 'a'"),
    ],
)
def test_what_does_not_pair_up_is_named(metric, candidates, references, message):
    with pytest.raises(DataError, match=message):
        metric(candidates, references)


def test_of_many_missing_keys_three_are_named():
    with pytest.raises(DataError, match=r"'a', 'b', 'c', …\. Both need"):
        cider(dict.fromkeys("dcba", "x"), {})
