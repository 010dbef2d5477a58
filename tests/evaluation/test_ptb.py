"""Penn Treebank tokens, equal to those of the Java program."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.evaluation.ptb import PUNCTUATION, ptb_tokens
from mm1_mlx.evaluation.ptb_rules import RULES

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
PLAIN_WORDS = st.lists(st.text("abcdefghijklm", min_size=5, max_size=9), max_size=6)


def captions(name):
    lines = (GOLDEN / name).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def test_golden_captions_have_the_programs_tokens():
    rows = captions("ptb.jsonl")
    different = [row for row in rows if " ".join(ptb_tokens(row["caption"])) != row["tokens"]]
    assert len(rows) == 2650
    assert different == []


def test_awkward_captions_below_each_other_have_the_programs_tokens():
    rows = captions("ptb_more.jsonl")
    following = [row["caption"] for row in rows[1:]] + [""]
    assert [
        " ".join(ptb_tokens(row["caption"], after)) for row, after in zip(rows, following, strict=True)
    ] == [row["tokens"] for row in rows]


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("", []),
        ("A dog can't sit.", ["a", "dog", "ca", "n't", "sit"]),
        ("cannot gonna 'tis", ["can", "not", "gon", "na", "'t", "is"]),
        ("3 1/2 cups (555) 123-4567", ["3\u00a01/2", "cups", "-lrb-555-rrb-\u00a0123-4567"]),
        ("a\nb\rc\u2028d", ["a", "b", "c", "d"]),
        ("ΑΣ ΣΑΣ ΑΣ-Α Σ", ["ας", "σας", "ασ-α", "σ"]),
        ("\U0001f600\x01", []),
        ("-----", ["-----"]),
    ],
)
def test_tokens_of_one_caption(caption, tokens):
    assert ptb_tokens(caption) == tokens


def test_the_next_line_tells_whether_a_period_ends_a_sentence():
    assert ptb_tokens("plan B.") == ["plan", "b."]
    assert ptb_tokens("plan B.", "The end.") == ["plan", "b"]
    assert ptb_tokens("number no.", "7 dogs") == ["number", "no."]
    assert ptb_tokens("number no.", "some dogs") == ["number", "no"]


@given(PLAIN_WORDS, st.sampled_from([" ", "  ", "\n", "\t", "\u00a0", " . ", ", ", "! "]))
def test_plain_words_stay_whole_whatever_is_between_them(words, between):
    assert ptb_tokens(between.join(words)) == words


@given(st.text(max_size=40))
def test_any_text_gives_small_tokens_without_blanks_or_punctuation(text):
    tokens = ptb_tokens(text)
    assert all(token and " " not in token and token not in PUNCTUATION for token in tokens)
    assert [token.lower() for token in tokens] == tokens


def test_every_rule_can_be_read_and_the_last_fits_any_character():
    assert all(rule.pattern for rule in RULES)
    assert ptb_tokens("\uffff\ue000") == []
