"""Cut captions into the tokens that the published caption scores count, without Java.

``pycocoevalcap`` runs the Stanford tokenizer 3.4.1 with ``-preserveLines -lowerCase`` and drops the tokens of
punctuation listed here. Lower case comes after the tokenizer, so ``-lrb-`` stays. The rules are in ``ptb_rules``.
"""

import re
from functools import cache
from typing import NamedTuple

from mm1_mlx.evaluation.longest import Longest
from mm1_mlx.evaluation.ptb_characters import SETS
from mm1_mlx.evaluation.ptb_rules import RULES, Rule

PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
WORD_BREAK = re.compile(r"[^\w\-'\".\xad]|[\u3040-\u9fff]")  # inside a token, by Java's rules


class Lexer(NamedTuple):
    """The rules as automata: all rules in one, and for each rule with ``ahead`` its two parts by themselves."""

    rules: Longest
    before: dict[Rule, Longest]
    ahead: dict[Rule, Longest]


@cache
def make_lexer() -> Lexer:
    """Build the automata of all rules; they are built once."""
    looking = [rule for rule in RULES if rule.ahead]
    return Lexer(
        Longest([f"({rule.pattern})({rule.ahead})" for rule in RULES], SETS),
        {rule: Longest([rule.pattern], SETS) for rule in looking},
        {rule: Longest([rule.ahead], SETS) for rule in looking},
    )


def ptb_tokens(caption: str, following: str = "") -> list[str]:
    """Return the Penn Treebank tokens of a caption, in lower case and without punctuation.

    Line breaks in a caption are read as blanks. A token may hold blanks that do not break, as ``3 1/2`` does.

    Args:
        caption: The caption as a person or a model wrote it.
        following: The caption in the next line of the file that the original program would read. It looks there to
            tell whether the period in a final ``b.`` or ``no.`` ends a sentence.
    """
    line, next_line = caption.replace("\n", " "), following.replace("\n", " ")
    text = f"{line}\n{next_line}\n"
    tokens = []
    start = 0
    while start < len(line):
        rule, end = _find_next(text, start)
        token = rule.write(text[start:end])
        if token is not None:
            tokens.append(lower_as_java(token))
        start = end
    return [token for token in " ".join(tokens).rstrip().split(" ") if token and token not in PUNCTUATION]


def lower_as_java(token: str) -> str:
    """Write a token in lower case as Java does, which looks at the whole word to choose the form of a sigma."""
    before, sigma, after = token.rpartition("Σ")
    if not sigma:
        return token.lower()
    final = has_case(WORD_BREAK.split(before)[-1]) and not has_case(WORD_BREAK.split(after)[0])
    last = "ς" if final else "σ"
    return before.replace("Σ", "σ").lower() + last + after.lower()


def has_case(text: str) -> bool:
    """Tell whether a text has an upper-case or lower-case letter."""
    return any(char.islower() or char.isupper() for char in text)


def _find_next(text: str, start: int) -> tuple[Rule, int]:
    """Find the rule that makes the next token; return it with the end of the token."""
    automata = make_lexer()
    match = automata.rules.match(text, start)
    if match is None:
        raise AssertionError("the last rule fits any character")
    rule, end = RULES[match.rule], match.end
    if rule.ahead:
        before, ahead = automata.before[rule], automata.ahead[rule]
        while not (before.matches(text, start, end) and ahead.matches(text, end, match.end)):
            end -= 1
    return rule, end
