"""A run as a command makes it: shown while it goes on, reported, and begun anew or where it was left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.errors import TrainingError
from mm1_mlx.training.curve import draw_curve
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.progress import ProgressBar
from mm1_mlx.training.reporters import Reporter
from mm1_mlx.training.run_folder import RunFolder
from mm1_mlx.training.task import Task
from mm1_mlx.training.trainer import Trainer


@dataclass(frozen=True)
class Session:
    """How a run is shown, and how it begins."""

    json_lines: bool = False  # print reports as they stand in ``metrics.jsonl``
    services: str = ""  # that get them too, with commas between
    project: str | None = None  # there
    about: dict[str, Any] = field(default_factory=dict)  # what the run is, for them
    resume: bool = False
    force: bool = False  # begin though the memory will not do


def require_fresh(folder: Path, *, resume: bool) -> None:
    """Refuse to begin where there can be no folder, or is a run that could go on.

    Args:
        folder: of the run.
        resume: it is to go on.

    Raises:
        TrainingError: there is one, or a file in the folder's way.
    """
    way = next(path for path in (folder, *folder.parents) if path.exists())
    if not way.is_dir():
        raise TrainingError(f"{way} is a file, so {folder} can be no folder; give another `folder`.")
    there = RunFolder(folder).newest()
    if there is not None and not resume:
        raise TrainingError(f"{there} is there already; `resume` goes on from it, or give another `folder`.")


def run_task(
    task: Task, options: RunOptions, folder: Path, session: Session, *, notes: Sequence[str] = ()
) -> Trainer:
    """Train to the end, or to a signal, and draw the losses.

    Args:
        task: what is trained.
        options: when to report, validate and save.
        folder: of the run.
        session: how it is shown, and how it begins.
        notes: lines to show before it begins.

    Raises:
        MM1Error: it cannot begin, go on or be saved.
    """
    first = mx.distributed.init().rank() == 0
    reporter = Reporter(session.services if first else "", session.project, folder, session.about)
    with ProgressBar(task.recipe.iters, json_lines=session.json_lines, quiet=not first) as bar:

        def report(line: dict[str, Any]) -> None:
            bar.report(line)
            reporter.report(line)

        trainer = Trainer(task, options, folder, report=report)
        bar.say("\n".join(notes))
        if not session.force:
            task.require_room()
        if session.resume and not trainer.resume():
            bar.say(f"there is no checkpoint in {folder} yet; beginning at the start")
        bar.start(trainer.progress.update)
        trainer.train()
    if first:
        draw_curve(folder)
    return trainer
