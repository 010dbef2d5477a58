"""A run as a command makes it: new or resumed, with a progress bar and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.errors import TrainingError
from mm1_mlx.seeing.draw import require_png_place
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

    json_lines: bool = False  # print reports as they are in ``metrics.jsonl``
    services: str = ""  # services that also get the reports, separated by commas
    project: str | None = None  # name of the project at the services
    about: dict[str, Any] = field(default_factory=dict)  # what the run is, for the services
    resume: bool = False
    force: bool = False  # begin even if the memory is too small


def require_fresh(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot be made, or that holds a run, or something else, which would be overwritten.

    Args:
        folder: the folder of the run.
        resume: the run that it holds is to be resumed.

    Raises:
        CheckpointError: something else has the name of the drawing of the losses.
        TrainingError: the folder holds a run, or a file has the name of the folder or of one above or in it.
    """
    way = next(path for path in (folder, *folder.parents) if path.exists())
    if not way.is_dir():
        raise TrainingError(f"{way} is a file, so {folder} can be no folder; give another `folder`.")
    for inner in (RunFolder(folder).best, RunFolder(folder).checkpoint_folder):
        if inner.exists() and not inner.is_dir():
            raise TrainingError(f"{inner} is a file, but a run has a folder there; give another `folder`.")
    require_png_place(RunFolder(folder).drawing)
    there = RunFolder(folder).newest()
    if there is not None and not resume:
        raise TrainingError(f"{there} is there already; `resume` goes on from it, or give another `folder`.")


def run_task(
    task: Task, options: RunOptions, folder: Path, session: Session, *, notes: Sequence[str] = ()
) -> Trainer:
    """Train until the last update or until a signal, and draw the losses.

    Args:
        task: what is trained.
        options: when to report, validate and save.
        folder: the folder of the run.
        session: how the run is shown, and how it begins.
        notes: lines to show before the run begins.

    Raises:
        MM1Error: the run cannot begin, be resumed or be saved.
    """
    first = mx.distributed.init().rank() == 0
    reporter = Reporter(session.services if first else "", session.project, folder, session.about)
    with ProgressBar(task.recipe.iters, json_lines=session.json_lines, quiet=not first) as bar:

        def report(line: dict[str, Any]) -> None:
            bar.report(line)
            reporter.report(line)

        trainer = Trainer(task, options, folder, report=report)
        require_fresh(folder, resume=session.resume)  # which another run may have filled meanwhile
        bar.say("\n".join(notes))
        if not session.force:
            task.require_memory()
        if session.resume and not trainer.resume():
            bar.say(f"there is no checkpoint in {folder} yet; beginning at the start")
        bar.start(trainer.progress.update)
        trainer.train()
    if first and (drawn := draw_curve(folder)):
        bar.say(f"The losses are drawn in {drawn}")
    return trainer
