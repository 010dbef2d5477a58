"""Pre-train a model as MM1 was: a recipe's stages on captions, documents and text, one after the other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_mlx import training_flags
from mm1_mlx.command import entry_points, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mm1_mlx.training.pretraining.recipe import Stage
    from mm1_mlx.training.pretraining.stages import Stages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="the recipe, in YAML")
    parser.add_argument(
        "--output", default="pretrained", metavar="DIR", help="where each stage's folder goes"
    )
    what = parser.add_argument_group("what to do")
    what.add_argument("--stage", metavar="NAME", help="run one stage alone, from what an earlier run left")
    what.add_argument(
        "--resume", action="store_true", help="go on in the stage and at the update that was next"
    )
    what.add_argument(
        "--dry-run", action="store_true", help="tell what each stage would learn, and the memory it takes"
    )
    what.add_argument("--force", action="store_true", help="begin though the memory will not do")
    training_flags.add_reports(parser.add_argument_group("reports"))


def run(args: argparse.Namespace) -> None:
    from mm1_mlx.training.pretraining.recipe import read_recipe

    recipe = read_recipe(Path(args.config).expanduser())
    chosen = recipe.stages if args.stage is None else (recipe.find_stage(args.stage),)
    import mlx.core as mx

    from mm1_mlx.tiny.corpora import CORPORA
    from mm1_mlx.training.pretraining.stages import Stages

    generators = {f"tiny:{name}": maker for name, maker in CORPORA.items()}
    first = mx.distributed.init().rank() == 0
    stages = Stages(recipe, Path(args.output).expanduser(), generators, say if first else lambda line: None)
    if args.dry_run:
        for number, stage in enumerate(chosen):
            print("\n" * bool(number) + "\n".join(stages.foresee(stage)))
        return
    _train(args, stages, chosen)


def _train(args: argparse.Namespace, stages: Stages, chosen: Sequence[Stage]) -> None:
    from mm1_mlx.training.distributed.processes import Processes

    for stage in chosen:
        stages.require_fresh(stage, resume=args.resume)
    processes = Processes()
    for stage in chosen:
        if stages.is_done(stage):
            if processes.rank == 0:
                say(f"stage {stage.name} is done: {stages.result(stage)}")
            continue
        stopped_by = _train_stage(args, stages, stage)
        processes.sum_numbers(0)  # waits until the first process has written the model
        if stopped_by:
            if processes.rank == 0:
                say(f"stopped by {stopped_by} in stage {stage.name}; --resume goes on.")
            return
    if processes.rank == 0:
        say(f"The model is in {stages.result(chosen[-1])}")


def _train_stage(args: argparse.Namespace, stages: Stages, stage: Stage) -> str | None:
    """Train one stage, and return what stopped it, or None if it was finished."""
    from mm1_mlx.training.session import Session, run_task

    ready = stages.prepare(stage, force=args.force)
    about = {"stage": stage.name} | ready.task.recipe.to_dict() | stage.options.to_dict()
    session = Session(args.json, args.report_to, args.project_name, about, args.resume)
    folder = stages.folder_of(stage)
    return run_task(ready.task, stage.options, folder, session, notes=ready.notes).stopped_by


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()
