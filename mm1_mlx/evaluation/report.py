"""The files of an evaluation: numbers, tables in the paper's form, a drawing, and every prediction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.drawing import draw_scores
from mm1_mlx.evaluation.journal import DRAWING, PREDICTIONS, RESULTS, TABLES, format_lines
from mm1_mlx.evaluation.published import Published, read_published
from mm1_mlx.evaluation.results import Line, Result
from mm1_mlx.evaluation.settings import TEXT_SHOTS
from mm1_mlx.evaluation.tasks.table import PUBLISHED
from mm1_mlx.files.json_files import write_json
from mm1_mlx.files.writing import new_files

METRICS = {"cider": "CIDEr-D", "vqa": "VQA accuracy", "exact": "exact match"}
FEW = 4  # answers of a balance that a table shows
OURS = """\
Answers are greedy: there are no beams. Where MM1 is silent or only remembered, the choice is ours: the prompts and stops
of `mm1`, shots from the training split, validation splits where its table has test-dev. OK-VQA's answers are not
stemmed."""


def write_report(folder: Path, report: dict[str, Any], predictions: Sequence[Line]) -> None:
    """Write all four files of an evaluation; they move into the folder together when all are complete.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        with new_files(folder, (PREDICTIONS, TABLES, DRAWING, RESULTS)) as made:
            (made / PREDICTIONS).write_text(format_lines(predictions), "utf-8")
            (made / TABLES).write_text(write_tables(report), "utf-8")
            draw_scores(report["results"]).save(made / DRAWING, "PNG")
            write_json(made / RESULTS, report)
    except OSError as error:
        raise DataError(f"`output` {folder} cannot be written: {error.strerror}.") from None


def write_tables(report: dict[str, Any]) -> str:
    """Write the report in Markdown: the scores beside published ones, then everything that was measured."""
    results: list[Result] = report["results"]
    parts = [f"# {report['model']}"]
    columns = [task for task in PUBLISHED if any(result["task"] == task.name for result in results)]
    if columns:
        others = read_published()
        parts += ["## Beside published models", _write_beside(report, columns, others), _write_legend(others)]
    parts += [
        "## What was measured",
        write_measured(results),
        _write_means(results),
        _write_settings(report),
        OURS,
    ]
    if any("query_answers" in result for result in results):
        parts += ["## Commonest answers", _write_balances(results)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _write_beside(report: dict[str, Any], columns: Sequence[Any], others: Published) -> str:
    """Write the paper's table: a row for each model and number of shots, a column for each task."""
    lines = [["model", "shots", *(task.title for task in columns), "mark"]]
    for row in others.rows:
        scores = [f"{row.scores[task.name]:.1f}" if task.name in row.scores else "-" for task in columns]
        if any(score != "-" for score in scores):
            lines.append([row.model, str(row.shots), *scores, row.mark])
    by_place = {(result["shots"], result["task"]): result for result in report["results"]}
    for shots in sorted({shots for shots, _ in by_place}):
        found = [by_place.get((shots, task.name)) for task in columns]
        if any(found):
            scores = ["-" if result is None else f"**{result['score']:.1f}**" for result in found]
            lines.append([f"**{report['model']}**", _write_shots(report, shots), *scores, "measured"])
    return _write_markdown(lines)


def _write_legend(others: Published) -> str:
    marks = "; ".join(f"{mark}: {meaning}" for mark, meaning in others.marks.items())
    return f"{others.about} Marks: {marks}. Splits, prompts and shots differ between models."


def write_measured(results: Sequence[Result]) -> str:
    """Write a table with a row for each result, and one for each group of its queries."""
    heads = ["task", "metric", "shots", "score", "95 % interval", "spread over seeds", "queries", "left out"]
    extra = {"ranked": "likeliest choice", "swapped": "another's picture"}
    extra = {name: head for name, head in extra.items() if any(name in result for result in results)}
    lines = [heads + list(extra.values())]
    for result in results:
        low, high = result["interval"]
        spread = "-" if result["spread"] is None else f"{result['spread']:.1f} ({len(result['scores'])})"
        line = [
            result["task"],
            METRICS[result["metric"]],
            _write_number(result["shots"]),
            f"{result['score']:.1f}",
        ]
        line += [f"{low:.1f} to {high:.1f}", spread, f"{result['num_queries']:,}"]
        line += [str(result["num_missing"] + result["num_failed"])]
        lines.append(line + [f"{result[name]['score']:.1f}" if name in result else "-" for name in extra])
        for group, own in result.get("groups", {}).items():
            part = [f"{result['task']}: {group}", METRICS[result["metric"]], _write_number(result["shots"])]
            part += [f"{own['score']:.1f}", "", "", f"{own['num_queries']:,}", *[""] * (1 + len(extra))]
            lines.append(part)
    return _write_markdown(lines)


def _write_means(results: Sequence[Result]) -> str:
    """Write the mean over all tasks for each number of shots, as MM1 compares its ablations; "" for one task."""
    tasks = {result["task"] for result in results}
    if len(tasks) == 1:
        return ""
    scores: dict[int, list[float]] = defaultdict(list)
    for result in results:
        scores[result["shots"]].append(result["score"])
    means = ", ".join(f"{shots} shot{'s' * (shots != 1)} {fmean(own):.1f}" for shots, own in scores.items())
    return f"Mean of the {len(tasks)} tasks: {means}."


def _write_balances(results: Sequence[Result]) -> str:
    """Write a table of how often queries and shots have each answer, which shows an unbalanced choice of shots."""
    lines = [["task", "shots", "of the queries", "of their shots"]]
    for result in results:
        if "query_answers" in result:
            both = [_write_shares(result["query_answers"]), _write_shares(result["shot_answers"])]
            lines.append([result["task"], _write_number(result["shots"]), *both])
    return _write_markdown(lines)


def _write_shares(shares: dict[str, float]) -> str:
    parts = [f"{answer} {100 * share:.0f} %" for answer, share in shares.items() if answer != "others"]
    return ", ".join(parts[:FEW]) or "-"


def _write_settings(report: dict[str, Any]) -> str:
    settings = report["settings"]
    text = f"Prompts: {settings['prompts']}; shots: {settings['select']}"
    rules = {result["metric"] for result in report["results"]}
    text += f"; VQA accuracy by the {report['vqa_rules']} rules" if "vqa" in rules else ""
    text += "; one view for each example" if settings["low_resolution_shots"] else ""
    text += f"; {settings['limit']:,} queries drawn of each task" if settings["limit"] else ""
    text_shots = TEXT_SHOTS.get(settings["prompts"])
    if text_shots and any(result["shots"] == 0 for result in report["results"]):
        text += f'; its "0 shots" are {text_shots} examples without pictures'
    return text + "."


def _write_shots(report: dict[str, Any], shots: int) -> str:
    text_shots = TEXT_SHOTS.get(report["settings"]["prompts"])
    return f"0 ({text_shots} in text)" if text_shots and shots == 0 else str(shots)


def _write_number(shots: int | None) -> str:
    return "-" if shots is None else str(shots)


def _write_markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest))
