"""Score short answers: against those of ten people, or as exactly right or wrong.

Source: Antol et al., "VQA: Visual Question Answering" (arXiv:1505.00468), and the evaluation program that its authors
published, with its quirks. lmms-eval's rules are those of its ``EvalAIAnswerProcessor``.
"""

import re
from collections.abc import Sequence
from typing import Literal

from mm1_mlx.errors import DataError

ENOUGH = 3  # people who give an answer make it fully right
SIGNS = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(
    r"\.(?!\d)"
)  # not before a digit; the program also meant "not after a digit", but does not check it
MOST_PERIODS = 32  # the program passes re.UNICODE, 32, where a number of replacements belongs
COMMA = {"official": re.compile(r"\d,\d"), "lmms": re.compile(r"\d,+\d")}
ARTICLES = {"a", "an", "the"}
DIGITS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        map(str, range(11)),
        strict=True,
    )
)
NUMBERS = {"none": "0"} | DIGITS
# A word that lacks its apostrophe gets it back.
ONE_APOSTROPHE = [
    "'twas",
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hasn't",
    "haven't",
    "he'd",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'll",
    "ma'am",
    "might've",
    "mightn't",
    "must've",
    "mustn't",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "shan't",
    "should've",
    "shouldn't",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'll",
    "someone's",
    "something'd",
    "something'll",
    "that's",
    "there'd",
    "there're",
    "there's",
    "they'd",
    "they'll",
    "they're",
    "they've",
    "wasn't",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "y'all",
    "you'd",
    "you'll",
    "you're",
    "you've",
]
# A word that lacks one of its several apostrophes gets that one back.
MORE_APOSTROPHES = [
    "'ow's'at",
    "couldn't've",
    "hadn't've",
    "he'd've",
    "it'd've",
    "mightn't've",
    "she'd've",
    "shouldn't've",
    "somebody'd've",
    "someone'd've",
    "something'd've",
    "there'd've",
    "they'd've",
    "we'd've",
    "who'd've",
    "wouldn't've",
    "y'all'd've",
    "y'all'll",
    "you'd've",
]
CONTRACTIONS = (
    {word.replace("'", ""): word for word in ONE_APOSTROPHE}
    | {
        word[:at] + word[at + 1 :]: word
        for word in MORE_APOSTROPHES
        for at, sign in enumerate(word)
        if sign == "'"
    }
    | {"somebody'd": "somebodyd"}
)
Rules = Literal["official", "lmms"]


def vqa_accuracy(prediction: str, answers: Sequence[str], rules: Rules = "official") -> float:
    """Return the VQA accuracy of an answer, from 0 to 1: 1 where three people gave the same answer.

    It is the mean over the people, each left out in turn, of the answer's score against all others.

    Args:
        prediction: The model's answer.
        answers: The people's answers, usually ten.
        rules: ``"official"`` tidies the answers only where the people's differ; ``"lmms"`` does as lmms-eval: it always
            tidies them, and first removes commas and question marks and splits off the ``'s``.

    Raises:
        DataError: there are fewer than two answers, so that none is left to compare with.
        ValueError: the rules are not known.
    """
    if rules not in COMMA:
        raise ValueError(f'`rules` is {rules!r}, expected "official" or "lmms".')
    if isinstance(answers, str):
        raise DataError(f"`answers` is the text {answers!r}, expected a list of answers.")
    if len(answers) < 2:
        raise DataError(
            f"`answers` has {len(answers)}, expected at least 2 (usually 10), each left out in turn."
        )
    if rules == "lmms":
        prediction, *answers = (_tidy_as_lmms(answer) for answer in (prediction, *answers))
    prediction, *answers = (_drop_line_breaks(answer) for answer in (prediction, *answers))
    if rules == "lmms" or len(set(answers)) > 1:
        prediction, *answers = (tidy_answer(answer, rules) for answer in (prediction, *answers))
    agreeing = sum(answer == prediction for answer in answers)
    scores = (min(1.0, (agreeing - (answer == prediction)) / ENOUGH) for answer in answers)
    return sum(scores) / len(answers)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if a prediction is one of the answers, else 0; case, blanks and final punctuation do not matter.

    Raises:
        DataError: there is no answer.
    """
    if isinstance(answers, str) or not answers:
        raise DataError(f"`answers` is {answers!r}, expected a list of at least one answer.")
    return float(_fold(prediction) in map(_fold, answers))


def tidy_answer(answer: str, rules: Rules = "official") -> str:
    """Tidy an answer: drop punctuation and articles, write number words as digits, restore apostrophes."""
    joined = COMMA[rules].search(answer) is not None  # in that case a removed sign leaves no blank
    text = answer
    for sign in SIGNS:
        beside_blank = f"{sign} " in answer or f" {sign}" in answer
        text = text.replace(sign, "" if joined or beside_blank else " ")
    text = PERIOD.sub("", text, count=MOST_PERIODS)
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _drop_line_breaks(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _tidy_as_lmms(answer: str) -> str:
    return answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")


def _fold(answer: str) -> str:
    return " ".join(answer.casefold().split()).rstrip(" .,;:!?。！？")
