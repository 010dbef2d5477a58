"""Score a file of predictions by itself: an evaluation's, or anyone's with an id and an answer a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mm1_mlx.errors import DataError, PromptError
from mm1_mlx.evaluation.answers import Rules
from mm1_mlx.evaluation.results import Line, Result, results_of
from mm1_mlx.evaluation.tasks.task import Item, Metric, Task
from mm1_mlx.files.json_lines import read_json_lines

IDS = ("id", "question_id", "image_id", "image")  # as files for evaluation servers have them
ANSWERS = ("answer", "caption", "prediction")


def score_file(path: Path, task: Task, *, data: str | None, rules: Rules) -> list[Result]:
    """Return a result for each number of shots that a file has predictions for.

    Args:
        path: JSON lines, or one JSON list.
        task: what was asked.
        data: the folder with the task's files, where references are taken from; None: they stand in the file.
        rules: of VQA accuracy.

    Raises:
        DataError: the file is of another task, has no references or ids that are unknown, or cannot be read.
    """
    lines = [_line(values, number, path, task) for number, values in _read(path).items()]
    queries: list[Item] = [] if data is None else list(task.read(data, "queries"))
    metric = task.metric_of(queries) if queries else _metric(lines, task)
    if data is not None:
        _take_references(lines, {item.id: item for item in queries}, path, task)
    without = [line for line in lines if not line.get("references")]
    if without:
        raise DataError(
            f"{path}: {len(without):,} of {len(lines):,} predictions have no references, the first is {without[0]['id']}; "
            "give the folder with the task's files as `data`."
        )
    answered = {line["id"] for line in lines}
    unanswered = sum(item.id not in answered for item in queries)
    told = {"task": task.name, "title": task.title, "metric": metric, "num_missing": unanswered}
    return [told | result for result in results_of(lines, metric, rules)]


def _read(path: Path) -> dict[int, Any]:
    """Return the objects of a file by line, or by place in its list."""
    try:
        if path.read_bytes()[:1] == b"[":
            values = json.loads(path.read_text("utf-8-sig"))
            return dict(enumerate(values, 1))
        return read_json_lines(path, holds="predictions")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give a file of predictions.") from None
    except (ValueError, PromptError) as error:
        raise DataError(f"{path}: {error}" if isinstance(error, ValueError) else str(error)) from None


def _line(values: Any, number: int, path: Path, task: Task) -> Line:
    if not isinstance(values, dict):
        raise DataError(f"{path}, entry {number} is no JSON object; give an id and an answer.")
    of = values.get("task", task.name)
    if of != task.name:
        raise DataError(
            f"{path}, line {number} is a prediction of {of}, not {task.name}; give `task` {of}, or another file."
        )
    id = next((str(values[key]) for key in IDS if key in values), None)
    answer = next((values[key] for key in ANSWERS if isinstance(values.get(key), str)), None)
    if id is None or (answer is None and "error" not in values):
        raise DataError(
            f"{path}, line {number} has no {'id' if id is None else 'answer'}; give id and answer."
        )
    return {"shots": None, "seed": 0} | values | {"id": id, "answer": answer}


def _metric(lines: list[Line], task: Task) -> Metric:
    """Return how answers are scored: the task's way, or where it goes by its items, by the first line's question."""
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
