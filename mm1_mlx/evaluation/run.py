"""Measure a model: every task with every number of shots and every seed, reported in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mm1_mlx.evaluation.asking import Asker
from mm1_mlx.evaluation.exam import Exam, open_exam
from mm1_mlx.evaluation.journal import Journal
from mm1_mlx.evaluation.report import write_report
from mm1_mlx.evaluation.results import Line, Result, compute_results
from mm1_mlx.evaluation.settings import EvaluationSettings
from mm1_mlx.evaluation.tasks.table import find_tasks
from mm1_mlx.evaluation.tasks.task import Task
from mm1_mlx.evaluation.writing import Cell, Writer
from mm1_mlx.files.identity import model_identity
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.cache import VisionCache

Progress = Callable[[str, Cell, int, int], None]  # task, pass, queries done, queries in all


def evaluate(
    model: MM1,
    processor: Processor,
    tasks: Sequence[Task | Exam | str],
    settings: EvaluationSettings | None = None,
    *,
    data: str | None = None,
    output: Path | None = None,
    resume: bool = False,
    name: str = "this model",
    vision_cache: VisionCache | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on tasks and report the scores; everything is read and checked before the first question.

    Args:
        model: from ``load``.
        processor: from ``load``.
        tasks: what to measure, by name, as tasks, or made ready by ``open_exam`` with the same settings.
        settings: how the model is measured.
        data: the folder with the data sets.
        output: the folder for ``results.json``, ``results.md``, ``results.png`` and ``predictions.jsonl``; None writes
            nothing.
        resume: go on with the answers in the folder.
        name: the name of the model, for the report.
        vision_cache: keeps visual tokens; None makes a new cache.
        progress: called after each block of queries.

    Returns:
        What ``results.json`` holds.

    Raises:
        MM1Error: data, settings or a picture are not usable, or the folder cannot be written.
    """
    settings = settings or EvaluationSettings()
    vision_cache = VisionCache() if vision_cache is None else vision_cache
    exams = [_make_ready(task, data, settings) for task in tasks]
    writers = [Writer(model, processor, exam, settings) for exam in exams]
    for writer in writers:
        writer.check()
    deciding = _collect_deciding(model, processor, exams, settings)
    folder = None if output is None else Path(output)
    results: list[Result] = []
    predictions: list[Line] = []
    with closing(Journal(folder, deciding, resume=resume)) as journal:
        journal.require_asked({(w.exam.task.name, cell) for w in writers for cell in w.cells})
        for writer in writers:
            asker = Asker(model, processor, writer, settings, vision_cache)
            lines = _ask_all(writer, asker, journal, progress)
            results += _compute_task_results(writer.exam, lines, settings)
            predictions += lines
        report = {"model": name, "settings": deciding, **settings.list_counting(), "results": results}
        if folder is not None:
            write_report(folder, report, predictions)
            journal.finish()
    return report


def _make_ready(task: Task | Exam | str, data: str | None, settings: EvaluationSettings) -> Exam:
    if isinstance(task, Exam):
        return task
    (found,) = find_tasks([task]) if isinstance(task, str) else [task]
    return open_exam(found, data, settings)


def _collect_deciding(
    model: MM1, processor: Processor, exams: Sequence[Exam], settings: EvaluationSettings
) -> dict[str, Any]:
    """Return everything that answers depend on, except shots and seeds, which each answer has itself."""
    deciding = {
        "weights": model_identity(model),
        "image_config": processor.config.image_config.to_dict(),
        **settings.list_deciding(),
        "data": {exam.task.name: exam.digests for exam in exams},
    }
    return json.loads(json.dumps(deciding))  # as a later run will read it


def _ask_all(writer: Writer, asker: Asker, journal: Journal, progress: Progress | None) -> list[Line]:
    """Ask all passes of a task block by block; return their lines, with those that the journal has already."""
    exam, lines = writer.exam, []
    number = len(exam.queries)
    for cell in writer.cells:
        if progress is not None:
            progress(exam.task.name, cell, 0, number)
        for begin in range(0, number, asker.block_size):
            indices = range(begin, min(begin + asker.block_size, number))
            block = journal.find_block(writer, cell, indices)
            if block is None:
                block = asker.ask_block(cell, indices)
                journal.add(block)
            lines += block
            if progress is not None:
                progress(exam.task.name, cell, indices.stop, number)
    return lines


def _compute_task_results(exam: Exam, lines: Sequence[Line], settings: EvaluationSettings) -> list[Result]:
    task = {"task": exam.task.name, "title": exam.task.title, "metric": exam.metric}
    examples = {item.id: item.example for item in exam.support}
    found = compute_results(lines, exam.metric, settings.vqa_rules, examples)
    return [task | result | {"num_missing": exam.num_missing} for result in found]
