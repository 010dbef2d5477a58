"""Score a file of predictions: that of an evaluation, or any other with an id and an answer in each line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mm1_mlx.errors import DataError, PromptError
from mm1_mlx.evaluation.answers import Rules
from mm1_mlx.evaluation.results import Line, Result, compute_results
from mm1_mlx.evaluation.tasks.task import LEAST_ANSWERS, Item, Metric, Task
from mm1_mlx.files.json_lines import read_json_lines
from mm1_mlx.strict import shown

IDS = ("id", "question_id", "image_id", "image")  # the keys in files for evaluation servers
ANSWERS = ("answer", "caption", "prediction")


def is_text(value: Any) -> bool:
    """Tell whether a value is a text."""
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Tell whether a value is a whole number, which a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_list_of_texts(value: Any) -> bool:
    """Tell whether a value is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {  # what a line may have besides id and answer
    "task": (is_text, "the name of a task"),
    "shots": (is_number, "a number"),
    "seed": (is_number, "a number"),
    "swapped": (lambda value: isinstance(value, bool), "true or false"),
    "references": (is_list_of_texts, "a list of texts"),
    "shot_ids": (is_list_of_texts, "a list of texts"),
    "group": (is_text, "text"),
    "ranked": (is_text, "text"),
}


def score_file(path: Path, task: Task, *, data: str | None, rules: Rules) -> list[Result]:
    """Score a file of predictions; return a result for each number of shots in it.

    Args:
        path: JSON lines, or one JSON list. Predictions of other tasks are ignored.
        task: what was asked.
        data: the folder with the task's files, which have the references; None: the predictions have them.
        rules: the rules of VQA accuracy.

    Raises:
        DataError: the file has only other tasks, lacks references, has ids that are unknown or occur twice, or cannot
            be read.
    """
    read = _read_predictions(path)
    lines = [
        _make_line(v, number, path) for number, v in read.items() if v.get("task", task.name) == task.name
    ]
    if not lines:
        others = ", ".join(dict.fromkeys(values["task"] for values in read.values()))
        raise DataError(
            f"{path} holds predictions of {others}, none of {task.name}; give `task` {others}, or another file."
        )
    _require_one_prediction(lines, path)
    queries: list[Item] = [] if data is None else list(task.read(data, "queries"))
    metric = task.pick_metric(queries) if queries else _pick_metric(lines, task)
    if data is not None:
        _take_references(lines, {item.id: item for item in queries}, path, task)
    _require_references(lines, metric, path)
    answered = {line["id"] for line in lines}
    unanswered = sum(item.id not in answered for item in queries)
    about = {"task": task.name, "title": task.title, "metric": metric, "num_missing": unanswered}
    return [about | result for result in compute_results(lines, metric, rules)]


def find_named_tasks(path: Path) -> list[str]:
    """Return the names of the tasks that the predictions of a file name.

    Raises:
        DataError: a prediction names no task, or the file cannot be read.
    """
    read = _read_predictions(path)
    nameless = next((number for number, values in read.items() if "task" not in values), None)
    if nameless is not None:
        raise DataError(f"{path}, line {nameless} does not say of which task it is; give `task`.")
    return list(dict.fromkeys(values["task"] for values in read.values()))


def _read_predictions(path: Path) -> dict[int, dict[str, Any]]:
    """Read the predictions of a file, by line or by place in its list, without null values."""
    try:
        text = path.read_text("utf-8-sig")
        found = dict(enumerate(json.loads(text), 1)) if text.lstrip()[:1] == "[" else None
        if found is None:
            found = read_json_lines(path, holds="predictions")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give a file of predictions.") from None
    except PromptError as error:
        raise DataError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no JSON in UTF-8 ({error}); give a JSON list or JSON lines of predictions."
        ) from None
    if not found:
        raise DataError(f"{path} holds no predictions; give a file with an id and an answer for each.")
    return {number: _drop_nulls(values, number, path) for number, values in found.items()}


def _drop_nulls(values: Any, number: int, path: Path) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{path}, entry {number} is no JSON object; give an id and an answer.")
    given = {key: value for key, value in values.items() if value is not None}
    for key, (fits, kind) in EXPECTED.items():
        if key in given and not fits(given[key]):
            raise DataError(f"{path}, line {number}: {key} is {shown(given[key])}, expected {kind}.")
    return given


def _make_line(values: dict[str, Any], number: int, path: Path) -> Line:
    """Return a prediction in the form of a line of an evaluation."""
    id = next((values[key] for key in IDS if is_text(values.get(key)) or is_number(values.get(key))), None)
    answer = next((values[key] for key in ANSWERS if is_text(values.get(key))), None)
    if id is None or (answer is None and "error" not in values):
        raise DataError(
            f"{path}, line {number} has no {'id' if id is None else 'answer'}; give id and answer."
        )
    return {"shots": None, "seed": 0} | values | {"id": str(id), "answer": answer}


def _require_one_prediction(lines: list[Line], path: Path) -> None:
    """Refuse two predictions of one query after the same shots."""
    seen = set()
    for line in lines:
        key = (line["shots"], line["seed"], line.get("swapped", False), line["id"])
        if key in seen:
            raise DataError(f"{path} has two predictions of query {line['id']}; keep one of them.")
        seen.add(key)


def _pick_metric(lines: list[Line], task: Task) -> Metric:
    """Return how answers are scored: the task's metric, or one that fits the first line where the task has none."""
    return task.metric or ("exact" if "question" in lines[0] else "cider")


def _take_references(lines: list[Line], queries: dict[str, Item], path: Path, task: Task) -> None:
    unknown = [line["id"] for line in lines if line["id"] not in queries]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown):,} of {len(lines):,} predictions are of queries that {task.name} does not have, the "
            f"first is {unknown[0]}; give the file of this data, or other `data`."
        )
    for line in lines:
        query = queries[line["id"]]
        line["references"] = list(query.answers)
        if query.group is not None:
            line["group"] = query.group


def _require_references(lines: list[Line], metric: Metric, path: Path) -> None:
    least = LEAST_ANSWERS[metric]
    without = [line for line in lines if len(line.get("references", ())) < least]
    if without:
        raise DataError(
            f"{path}: {len(without):,} of {len(lines):,} predictions have fewer than {least} references, the first is "
            f"{without[0]['id']}; give the folder with the task's files as `data`."
        )
