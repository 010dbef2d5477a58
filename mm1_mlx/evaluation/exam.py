"""A task made ready: its queries and its support set, read and checked before anything is asked."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.settings import EvaluationSettings
from mm1_mlx.evaluation.shots import shuffle
from mm1_mlx.evaluation.tasks.task import LEAST_ANSWERS, Item, Metric, Split, Task


@dataclass(frozen=True)
class Exam:
    """One task's queries and examples."""

    task: Task
    metric: Metric
    queries: list[Item]
    support: list[Item]  # empty where no shots are asked for
    num_missing: int  # queries left out: no picture, or no answers
    digests: dict[Split, str]  # equal for equal data; the support set has one only where it was read

    def swap_picture(self, index: int) -> Item:
        """Return a query with the picture of another query, as a control."""
        own, number = self.queries[index], len(self.queries)
        others = (self.queries[(index + number // 2 + step) % number] for step in range(number))
        image = next((o.image for o in others if o.image not in (None, own.image)), None)
        if own.image is None or image is None:
            raise DataError(f"`swapped` needs queries with different pictures; {self.task.name} has none.")
        return replace(own, image=image)


def open_exam(task: Task, data: str | None, settings: EvaluationSettings) -> Exam:
    """Read a task's splits and refuse items that cannot be asked or scored.

    Raises:
        DataError: a file is missing or not as published; pictures or answers are missing and ``skip_missing`` is off;
            or there are fewer examples than shots.
    """
    queries = _draw_items(task.read(data, "queries"), settings.limit, "limit")
    if not queries:
        raise DataError(f"{task.name} has no queries; give data that have some.")
    _require_different_ids(queries, task)
    _require_unicode(queries, task)
    metric = task.pick_metric(queries)
    least = LEAST_ANSWERS[metric]
    usable = [item for item in queries if len(item.answers) >= least]
    unanswered = [item for item in queries if len(item.answers) < least]
    if unanswered and (not settings.skip_missing or not usable):
        raise DataError(
            f"{task.name}: {len(unanswered):,} of {len(queries):,} queries have fewer than {least} reference answers, "
            f"the first is {unanswered[0].id}: they cannot be scored. Give a split that has answers, or leave these "
            "queries out with `skip_missing`."
        )
    usable = _keep_pictured(usable, task, "queries", settings)
    support: list[Item] = []
    if settings.most_shots:
        support = _draw_items(task.read(data, "support"), settings.support_limit, "support")
        support = _keep_pictured(support, task, "support", settings)
        _require_unicode(support, task)
        _require_alike(task, usable, support)
        _require_enough(task, support, settings.most_shots)
    read: dict[Split, list[Item]] = {"queries": usable}
    if settings.most_shots:
        read["support"] = support
    digests: dict[Split, str] = {split: _digest(items) for split, items in read.items()}
    return Exam(task, metric, usable, support, len(queries) - len(usable), digests)


def _require_different_ids(queries: Sequence[Item], task: Task) -> None:
    ids = Counter(query.id for query in queries)
    twice = [id for id, number in ids.items() if number > 1]
    if twice:
        raise DataError(
            f"{task.name}: {len(twice):,} of {len(ids):,} ids stand twice or more among its queries, the first is "
            f"{twice[0]}; give each query an id of its own."
        )


def _require_unicode(items: Sequence[Item], task: Task) -> None:
    for item in items:
        texts = (item.id, item.question, item.shown, item.rationale, *item.answers, *item.choices)
        try:
            "".join(filter(None, texts)).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{task.name}: the texts of {item.id} hold {error.object[error.start]!a}, which is no Unicode text; write "
                "them anew, or take the row out."
            ) from None


def _draw_items(items: Sequence[Item], limit: int | None, seed: str) -> list[Item]:
    """Return all items, or a random sample of ``limit`` in their order, the same at every call."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index] for index in sorted(islice(shuffle(len(items), seed), limit))]


def _keep_pictured(
    items: Sequence[Item], task: Task, split: Split, settings: EvaluationSettings
) -> list[Item]:
    """Return the items whose picture files are there."""
    there: dict[Path, bool] = {}
    for item in items:
        if isinstance(item.image, Path) and item.image not in there:
            there[item.image] = os.path.isfile(item.image)
    missing = [path for path, is_there in there.items() if not is_there]
    usable = [item for item in items if not isinstance(item.image, Path) or there[item.image]]
    if missing and (not settings.skip_missing or not usable):
        limit = "limit" if split == "queries" else "support_limit"
        raise DataError(
            f"{task.name}: {len(missing):,} of {len(there):,} pictures of its {split} are missing, the first is "
            f"{missing[0]}. Put them there, take fewer with `{limit}`, or leave them out with `skip_missing`."
        )
    return usable


def _require_alike(task: Task, queries: Sequence[Item], support: Sequence[Item]) -> None:
    """Refuse examples of another kind than the queries, or of two kinds: with and without reasoning."""
    captions = queries[0].question is None
    if any((item.question is None) != captions for item in support):
        asked, shown = ("captions", "questions") if captions else ("questions", "captions")
        raise DataError(
            f"{task.name}: its queries are {asked}, but its support set has {shown}; give examples like the queries."
        )
    reasoning = sum(item.rationale is not None for item in support)
    if 0 < reasoning < len(support):
        raise DataError(
            f"{task.name}: {reasoning:,} of the {len(support):,} examples in its support set have a rationale; give it to "
            "all of them, or to none."
        )


def _require_enough(task: Task, support: Sequence[Item], num_shots: int) -> None:
    saying = sum(bool(item.example) for item in support)
    if saying < num_shots:
        raise DataError(
            f"{task.name}: `shots` {num_shots} were asked for, but its support set has {saying} examples with an answer; "
            f"ask for 0 to {saying}."
        )


def _digest(items: Sequence[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.id, item.question, item.answers, item.example, item.choices)).encode())
    return digest.hexdigest()[:16]
