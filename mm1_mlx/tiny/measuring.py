"""Measure a model on the table of the tiny world: each row's items asked, in each way that the model can be asked.

A model with a chat template is asked as a chat: shots are turns, or stand in one prompt. One without continues documents.
Where an item has choices, they are also ranked. Pictures of small print are shown in one view and in sub-images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mm1_mlx.errors import CheckpointError, DataError
from mm1_mlx.evaluation.cider import cider
from mm1_mlx.evaluation.intervals import Interval, bootstrap_interval
from mm1_mlx.files.json_files import parse_json, write_json
from mm1_mlx.files.writing import new_file, require_file
from mm1_mlx.generation.batch import answers_of
from mm1_mlx.generation.decoding import Decoding
from mm1_mlx.generation.engine import Engine
from mm1_mlx.generation.likelihood import find_likeliest
from mm1_mlx.generation.request import Request
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import BATCH_SIZE
from mm1_mlx.tiny.rows import NUM_TRIALS, ROWS, TableRow, make_trial
from mm1_mlx.tiny.stock import SHIPPED, THIRD_STYLE, Stock
from mm1_mlx.tiny.trials import Trial

Way = Literal["chat", "prompt", "document"]
LONGEST = {
    "caption": 64,
    "styled": 64,
    "detail": 64,
    "rationale": 96,
}  # tokens of an answer, by the kind of question
LONGEST_OTHER = 16
IN_VIEWS = ("small-print",)  # rows that are also asked with sub-images
MOST_ITEMS = 100_000  # of a row; all are drawn before the first is asked
KIND = "file of scores"


@dataclass(frozen=True)
class Score:
    """How well a model did in a row of the table."""

    row: str
    how: str  # how it was asked: "chat", "one prompt, ranked", "chat, sub-images" …
    num: int  # items
    interval: Interval  # of the share of right answers; of CIDEr-D for captions in a style
    bound: float | None  # the least mean that is asked for

    def line(self) -> dict[str, Any]:
        """Return the score as values for a JSON file."""
        mean, low, high = self.interval.mean, self.interval.low, self.interval.high
        return {
            "row": self.row,
            "how": self.how,
            "items": self.num,
            "score": round(mean, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "bound": self.bound,
        }


def find_rows(names: Sequence[str], stock: Stock) -> list[str]:
    """Return the rows that are named; without names, all that the stock's pictures suffice for.

    Raises:
        DataError: a name is no row's, or the stock has too few pictures for it.
    """
    known = [name for name, row in ROWS.items() if _has_pictures(stock, row)]
    for name in names:
        if name not in ROWS:
            raise DataError(f"no row is named {name!r}; there are {', '.join(ROWS)}.")
        if name not in known:
            raise DataError(
                f"row {name} needs pictograms that are not at hand; fetch them with mm1_mlx.tiny.fetching."
            )
    return list(names) or known


def write_score(score: Score) -> str:
    """Write a score as a line of the table, in percent; a style's is CIDEr-D times 100."""
    mean, low, high = (
        100 * value for value in (score.interval.mean, score.interval.low, score.interval.high)
    )
    bound = "" if score.bound is None else f", at least {100 * score.bound:.0f} asked for"
    return f"{score.row:30} {score.how:24} {mean:6.1f} ({low:.1f} to {high:.1f}){bound}"


def require_scores_place(path: Path) -> None:
    """Refuse a path at which scores cannot be written, or at which there is something else than scores.

    Raises:
        CheckpointError: it must not be replaced, or its folder does not exist.
    """
    require_file(path, is_kind=_holds_scores, kind=KIND)
    if not path.parent.is_dir():
        raise CheckpointError(f"{path} cannot be written: there is no folder {path.parent}; make it first.")


def save_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write scores as JSON, completely or not at all.

    Raises:
        CheckpointError: there is something else than scores.
        OSError: the file cannot be written.
    """
    with new_file(path, is_kind=_holds_scores, kind=KIND) as temporary:
        write_json(temporary, [score.line() for score in scores])


def _holds_scores(path: Path) -> bool:
    try:
        found = parse_json(path, f"{path} is not there.")
    except CheckpointError:
        return False
    return isinstance(found, list) and all(isinstance(line, dict) and "row" in line for line in found)


def measure(
    model: MM1,
    processor: Processor,
    rows: Iterable[str] = tuple(ROWS),
    *,
    stock: Stock = SHIPPED,
    num: int = NUM_TRIALS,
    batch_size: int = BATCH_SIZE,
    keep: Callable[[Trial, str, str], None] = lambda trial, how, answer: None,
) -> Iterator[Score]:
    """Yield the scores of each row of the table.

    Args:
        model: from ``load``.
        processor: from ``load``.
        rows: names of rows, of ``ROWS``.
        stock: pictograms and fonts; the table of the model's card has all that can be fetched.
        num: items of each row.
        batch_size: answers written together.
        keep: takes each item, how it was asked, and the answer.

    Raises:
        MM1Error: an item cannot be asked, such as one whose shots do not fit the context, or ``num`` is out of range.
    """
    if not 1 <= num <= MOST_ITEMS:
        raise DataError(f"`num` is {num}, expected 1 to {MOST_ITEMS:,}.")
    for row in rows:
        trials = [make_trial(row, number, stock=stock) for number in range(num)]
        ways = find_ways(processor, trials[0])
        for views, seen in _list_views(processor, row).items():
            for way in ways:
                engine = Engine(
                    model, seen, Decoding(max_tokens=_find_longest(trials[0])), batch_size=batch_size
                )
                with closing(engine):
                    for how, answers in _ask(engine, trials, way).items():
                        how += views
                        for trial, answer in zip(trials, answers, strict=True):
                            keep(trial, how, answer)
                        yield Score(row, how, num, score(trials, answers), ROWS[row].bound)


def find_ways(processor: Processor, trial: Trial) -> tuple[Way, ...]:
    """Return the ways in which an item can be put to a model: as chats if it has a chat template, or as a document."""
    if getattr(processor.tokenizer, "chat_template", None) is None:
        return ("document",) if trial.document else ()
    return ("chat", "prompt") if trial.in_one else ("chat",)


def write_request(trial: Trial, way: Way) -> Request:
    """Write an item as a request."""
    if way == "document":
        return Request(trial.document, trial.pictures, template="plain", stop=("\n",))
    if way == "prompt":
        return Request(trial.in_one, trial.pictures)
    asked = [
        {"role": role, "content": text}
        for question, answer in trial.turns
        for role, text in (("user", question), ("assistant", answer))
    ]
    return Request([*asked, {"role": "user", "content": trial.text}], trial.pictures)


def score(trials: Sequence[Trial], answers: Sequence[str]) -> Interval:
    """Return the share of right answers, or CIDEr-D (of 10) where the items ask for captions in a style."""
    if trials[0].question.kind != "styled":
        return bootstrap_interval([float(t.is_right(a)) for t, a in zip(trials, answers, strict=True)])
    given = {str(t.number): a for t, a in zip(trials, answers, strict=True)}
    _, scores = cider(given, {str(t.number): [t.question.answer] for t in trials})
    return bootstrap_interval([scores[str(t.number)] for t in trials])


def _has_pictures(stock: Stock, row: TableRow) -> bool:
    if row.needs == "third style":
        return stock.folder is not None and (stock.folder / f"{THIRD_STYLE}.zip").is_file()
    return not row.needs or bool(stock.classes("named"))


def _list_views(processor: Processor, row: str) -> dict[str, Processor]:
    if row not in IN_VIEWS:
        return {"": processor}
    return {
        ", one view": processor.with_image_config(sub_images="none"),
        ", sub-images": processor.with_image_config(sub_images="static", max_sub_images=4),
    }


def _find_longest(trial: Trial) -> int:
    return LONGEST.get(trial.question.kind, LONGEST_OTHER)


def _ask(engine: Engine, trials: Sequence[Trial], way: Way) -> dict[str, list[str]]:
    """Return the answers by how they were asked for: written, and ranked where there are choices."""
    how = "one prompt" if way == "prompt" else way
    requests = [write_request(trial, way) for trial in trials]
    written = sorted(answers_of(engine, requests), key=lambda answer: answer.number)
    found = {how: [answer.text.strip() for answer in written]}
    if trials[0].choices:
        found[f"{how}, ranked"] = [
            _rank(engine, trial, request) for trial, request in zip(trials, requests, strict=True)
        ]
    return found


def _rank(engine: Engine, trial: Trial, request: Request) -> str:
    """Return the likeliest of an item's choices."""
    gap = " " if request.template == "plain" else ""
    continuations = [gap + choice for choice in trial.choices]
    if isinstance(request.prompt, Inputs):
        raise ValueError("choices are ranked after a prompt of text or messages, not after prepared inputs.")
    scored = engine.score(request.prompt, request.images, continuations, template=request.template)
    return trial.choices[find_likeliest(scored)]
