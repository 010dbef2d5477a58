"""VQA accuracy, equal to the official program's, and exact match."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.answers import CONTRACTIONS, exact_match, tidy_answer, vqa_accuracy

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
ANSWERS = st.sampled_from(["cat", "a cat", "Cat.", "two", "2", "dont", "1,000", "red, white", ""])


def test_golden_accuracies():
    cases = json.loads((GOLDEN / "vqa.json").read_text(encoding="utf-8"))["cases"]
    assert len(cases) == 2000
    for case in cases:
        accuracy = vqa_accuracy(case["prediction"], case["answers"])
        assert round(accuracy * 100, 6) == case["accuracy_percent"]
        assert tidy_answer(case["prediction"].strip()) == case["normalised"]


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_three_who_agree_are_enough_when_each_is_left_out_in_turn(agreeing, accuracy):
    answers = ["cat"] * agreeing + ["dog"] * (10 - agreeing)
    assert vqa_accuracy("cat", answers) == pytest.approx(accuracy)


def test_the_official_rules_tidy_only_where_people_differ():
    assert vqa_accuracy("The cat.", ["cat"] * 10) == 0
    assert vqa_accuracy("The cat.", ["cat"] * 10, rules="lmms") == 1
    assert vqa_accuracy("The cat.", ["cat"] * 9 + ["dog"]) == 1
    assert vqa_accuracy("\tcat\n", ["cat"] * 10) == 1


@pytest.mark.parametrize(
    ("answer", "tidy"),
    [
        ("The U.S.A.", "usa"),
        ("1.5.", "1.5"),
        ("1,000", "1000"),
        ("1,,000", "1 000"),
        ("1, 2", "1 2"),
        ("left-right", "left right"),
        ("left - right", "left right"),
        ("3,5 a-b", "35 ab"),
        ("none of ten", "0 of 10"),
        ("dont", "don't"),
        ("wouldn'tve", "wouldn't've"),
        ("somebody'd", "somebodyd"),
        ("." * 40, "." * 8),
    ],
)
def test_official_rules(answer, tidy):
    assert tidy_answer(answer) == tidy


def test_the_rules_of_lmms_eval_differ_in_commas_and_endings():
    assert tidy_answer("1,,000", rules="lmms") == "1000"
    others = ["dog"] * 6
    assert vqa_accuracy("red,white", ["redwhite"] * 4 + others) == 0
    assert vqa_accuracy("red,white", ["redwhite"] * 4 + others, rules="lmms") == 1
    assert vqa_accuracy("he's", ["hes"] * 4 + others) == 1
    assert vqa_accuracy("he's", ["hes"] * 4 + others, rules="lmms") == 0


def test_there_are_as_many_contractions_as_lower_case_words_can_meet():
    assert len(CONTRACTIONS) == 114


@given(
    ANSWERS, st.lists(ANSWERS, min_size=2, max_size=10), st.sampled_from(["official", "lmms"]), st.randoms()
)
def test_accuracy_lies_between_0_and_1_and_the_order_of_people_does_not_matter(
    prediction, answers, rules, random
):
    accuracy = vqa_accuracy(prediction, answers, rules)
    random.shuffle(answers)
    assert vqa_accuracy(prediction, answers, rules) == pytest.approx(accuracy)
    assert 0 <= accuracy <= 1


def test_too_few_answers_and_unknown_rules_are_refused():
    for answers in ([], ["cat"]):
        with pytest.raises(DataError, match=rf"`answers` has {len(answers)}, expected at least 2"):
            vqa_accuracy("cat", answers)
    with pytest.raises(DataError, match="expected a list of answers"):
        vqa_accuracy("cat", "cat")
    with pytest.raises(DataError, match="expected a list of at least one answer"):
        exact_match("cat", [])


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("Red.", ["red"], 1),
        (" a  red\ncube ", ["blue", "A red cube!"], 1),
        ("red", ["dark red"], 0),
        ("3.5", ["35"], 0),
        ("", ["red"], 0),
        ("STRASSE", ["straße"], 1),
    ],
)
def test_exact_match_folds_case_blanks_and_final_signs(prediction, answers, score):
    assert exact_match(prediction, answers) == score
