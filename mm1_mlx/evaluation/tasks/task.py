"""What a task is: items to ask about, items to show as worked examples, and how answers are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mm1_mlx.inputs.picture import Source

Split = Literal["queries", "support"]
Metric = Literal["cider", "vqa", "exact"]
LEAST_ANSWERS: dict[Metric, int] = {"cider": 1, "vqa": 2, "exact": 1}  # VQA leaves one out in turn


@dataclass(frozen=True)
class Item:
    """A query, or a worked example of the support split."""

    id: str  # no other of its split has it
    image: Source | None
    answers: tuple[str, ...]  # what people said; of a picture without a question, their captions
    question: str | None = None  # None asks for a caption
    shown: str | None = None  # what a worked example answers; None: what most people said
    rationale: str | None = None  # the reasoning that a worked example shows before its answer
    choices: tuple[str, ...] = ()  # from which ranking takes one
    group: str | None = None  # a part of the queries that is scored by itself too, such as "in-domain"

    @property
    def example(self) -> str:
        """What the item says as a worked example: one answer on one line; "" where there is none."""
        return self.shown if self.shown is not None else find_commonest(self.answers)


@dataclass(frozen=True)
class Task:
    """One thing to measure.

    ``read`` takes where the data is (``--data``; None: nowhere) and which split is wanted. Its items may be made when
    they are asked for; there must be the same ones each time.
    """

    name: str  # as --tasks has it
    title: str  # as a table has it
    about: str  # what is asked, and which files are read
    read: Callable[[str | None, Split], Sequence[Item]]
    metric: Metric | None = None  # None: cider of captions, exact match of answers
    max_tokens: int = 20  # of an answer

    def pick_metric(self, items: Sequence[Item]) -> Metric:
        """Return how answers about these items are scored."""
        return self.metric or ("cider" if items[0].question is None else "exact")


def join_lines(text: str) -> str:
    """Return a text as it stands in a line of a prompt: every run of white space is one blank."""
    return " ".join(text.split())


def find_commonest(answers: Sequence[str]) -> str:
    """Return what most people said, of equally many the first, on one line; "" where nobody said anything."""
    said = Counter(filter(None, map(join_lines, answers)))
    return max(said, key=said.__getitem__) if said else ""
