"""Rules as an automaton: the longest match wins, then the first rule."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.evaluation.longest import Longest, Match

SETS = {"d": str.isdigit, "v": "aeiou".__contains__}


def repeated(part):
    return st.tuples(part, st.sampled_from(["", "?", "*", "+", "{2}", "{1,3}"])).map("".join)


def joined(part):
    group = st.lists(part, min_size=1, max_size=3).map("|".join).map("({})".format)
    return repeated(group) | st.lists(part, min_size=1, max_size=3).map("".join)


RULES = st.recursive(repeated(st.sampled_from(["a", "b", "[ab]", "[^a]", "."])), joined, max_leaves=8)


def test_the_longest_match_wins():
    assert Longest(["a", "ab|abcd", "abc"], SETS).match("abcd", 0) == Match(rule=1, end=4)


def test_of_equally_long_matches_the_first_rule_wins():
    assert Longest(["b", "[ab]+", "ab"], SETS).match("xab", 1) == Match(rule=1, end=3)


def test_there_may_be_no_match():
    assert Longest(["ab+"], SETS).match("aab", 0) is None


def test_a_letter_stands_for_both_cases_outside_brackets_only():
    assert Longest(["a[b]"], SETS).match("Ab", 0) == Match(0, 2)
    assert Longest(["a[b]"], SETS).match("aB", 0) is None
    assert all(Longest(["sk"], SETS).match(text, 0) for text in ("SK", "ſk", "s\u212a"))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (r"\d+", "12"),
        (r"[\v\d]{2}", "a1"),
        (r"[^\v]", "b"),
        (r"\u0061\.\n[\u0062-d\]]", "a.\nc"),
        (r"[-\\\^]{3}", "-\\^"),
        (r".", "\n"),
    ],
)
def test_sets_and_signs(rule, text):
    assert Longest([rule], SETS).matches(text, 0, len(text))


@pytest.mark.parametrize(("rule", "problem"), [("(a", "never closed"), ("a)", "closes too early")])
def test_a_bracket_too_many_is_named(rule, problem):
    with pytest.raises(ValueError, match=problem):
        Longest([rule], SETS)


@given(RULES, st.text("abAB", max_size=8))
def test_rules_mean_what_they_mean_to_re(rule, text):
    found = Longest([rule], SETS).match(text, 0)
    pattern = re.compile(rule.replace("[ab]", "(?-i:[ab])").replace("[^a]", "(?-i:[^a])"), re.IGNORECASE)
    ends = [end for end in range(1, len(text) + 1) if pattern.fullmatch(text, 0, end)]
    assert (found.end if found else None) == max(ends, default=None)
