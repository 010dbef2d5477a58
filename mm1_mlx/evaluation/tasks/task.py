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

    id: str  # unique in its split
    image: Source | None
    answers: tuple[str, ...]  # what people said; of a picture without a question, their captions
    question: str | None = None  # None asks for a caption
    shown: str | None = None  # what a worked example answers; None: what most people said
    rationale: str | None = None  # the reasoning that a worked example shows before its answer
    choices: tuple[str, ...] = ()  # from which ranking takes one
    group: str | None = None  # a part of the queries that is scored by itself too, such as "in-domain"

    @property
    def example(self) -> str:
        """The answer of the item as a worked example, on one line; "" where there is none."""
        return self.shown if self.shown is not None else find_commonest(self.answers)


@dataclass(frozen=True)
class Task:
    """A task of an evaluation: what is asked, where it is read from, and how answers are scored.

    ``read`` takes the place of the data (``--data``; None where there is none) and the split. Its items may be made when
    they are needed, but must be the same each time.
    """

    name: str  # for --tasks
    title: str  # for tables
    about: str  # what is asked, and which files are read
    read: Callable[[str | None, Split], Sequence[Item]]
    metric: Metric | None = None  # None: cider of captions, exact match of answers
    max_tokens: int = 20  # of an answer

    def pick_metric(self, items: Sequence[Item]) -> Metric:
        """Return the metric that scores answers about ``items``."""
        return self.metric or ("cider" if items[0].question is None else "exact")


def join_lines(text: str) -> str:
    """Return a text as one line: every run of white space becomes one blank."""
    return " ".join(text.split())


def find_commonest(answers: Sequence[str]) -> str:
    """Return the commonest answer as one line, the first of equally common ones; "" where there is no answer."""
    said = Counter(filter(None, map(join_lines, answers)))
    return max(said, key=said.__getitem__) if said else ""
