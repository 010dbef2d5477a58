"""Tune a model on your own pictures: LoRA, DoRA or in full, any part of it; check data; measure on test rows."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_mlx import flags, training_flags
from mm1_mlx.command import entry_points, number_of, say
from mm1_mlx.errors import DataError, TrainingError, UsageError
from mm1_mlx.flag_files import take_defaults
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import RATE_TIMES_WIDTH, SFT, Recipe, tuning_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mm1_mlx.data.records import Records, Split
    from mm1_mlx.inputs.processor import Processor
    from mm1_mlx.model.mm1 import MM1
    from mm1_mlx.training.run import Run
    from mm1_mlx.training.trainer import Trainer
    from mm1_mlx.tuning.settings import Tuning

DEFAULT = Recipe(batch_size=16, schedule="cosine_decay")
MM1_SFT = {"train": ["encoder=full", "connector=full", "decoder=full"]} | SFT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser, adapters=False)
    flags.add_large_pictures(parser)
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="YAML with any of these flags; those given here win"
    )
    parser.add_argument(
        "--mm1-sft", action="store_true", help="MM1's recipe: all parts in full, AdaFactor, 1e-5, cosine"
    )
    what = parser.add_argument_group("what to do")
    what.add_argument(
        "--train", nargs="*", metavar="PART[=HOW]",
        help="parts that learn: encoder, connector, decoder (alone by default); HOW: lora, dora, full",
    )  # fmt: skip
    what.add_argument(
        "--test", action="store_true", help="loss on the test rows, after training if there is any"
    )
    what.add_argument(
        "--check-data", metavar="DIR", help="read all rows of DIR; tell what is in them and what is wrong"
    )
    what.add_argument(
        "--dry-run",
        action="store_true",
        help="tell what would be trained and the memory it takes; needs no --data, and --model may be mm1-7b-4bit",
    )
    what.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="of the Mac that a dry run is about; by default this machine's",
    )
    what.add_argument("--force", action="store_true", help="begin though the memory will not do")
    what.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in --adapter-path"
    )
    training_flags.add_data(parser, DEFAULT)
    training_flags.add_parts(parser)
    rate = f"the highest; by default {RATE_TIMES_WIDTH} / the decoder's width"
    training_flags.add_how(parser, DEFAULT, rate=rate)
    training_flags.add_run(parser, RunOptions())


def _take_defaults(parser: argparse.ArgumentParser, argv: list[str] | None) -> None:
    """Set the defaults of flags to the values of ``--mm1-sft`` and of the file that ``-c`` names."""
    take_defaults(parser, argv, {"mm1_sft": MM1_SFT})


def run(args: argparse.Namespace) -> None:
    if args.check_data:
        _check_data(args)
        return
    if args.train is None and not (args.test or args.dry_run):
        raise UsageError("there is nothing to do; give --train, --test, --dry-run or --check-data DIR.")
    if args.memory is not None and not 0 < args.memory < float("inf"):
        raise UsageError(f"--memory is {args.memory}, expected more than 0 GB.")
    before = _find_run(args)
    recipe = training_flags.with_flags(args, before.recipe if before else DEFAULT)
    options = training_flags.with_flags(args, before.options if before else RunOptions())
    tuning = training_flags.tuning_of(args, _tuning_before(before))
    if args.dry_run:
        _dry_run(args, recipe, options, tuning)
        return
    if args.data is None:
        raise UsageError("--data is missing; give a folder with train.jsonl, or a hub id.")
    from mm1_mlx.data.records import open_data

    rows = open_data(args.data, needed="test" if args.train is None else "train")
    model, processor = flags.load_model(args)
    if args.learning_rate is None and before is None:
        recipe = replace(recipe, learning_rate=tuning_rate(model.config.text_config.hidden_dims))
    if args.train is not None:
        _train(args, model, processor, rows, recipe, options, tuning)
    if args.test:
        _test(args, model, processor, rows, recipe)


def _find_run(args: argparse.Namespace) -> Run | None:
    """Return the run to resume, or None."""
    from mm1_mlx.training.run_folder import RunFolder, read_run

    there = RunFolder(_folder(args)).newest() if args.resume else None
    return None if there is None else read_run(there)


def _tuning_before(before: Run | None) -> Tuning | None:
    from mm1_mlx.tuning.settings import Tuning

    return None if before is None else Tuning.from_dict(before.task.get("tuning"))


def _folder(args: argparse.Namespace) -> Path:
    return Path(args.adapter_path).expanduser()


def _dry_run(args: argparse.Namespace, recipe: Recipe, options: RunOptions, tuning: Tuning) -> None:
    import mlx.core as mx

    from mm1_mlx.checkpoint.skeleton import is_preset
    from mm1_mlx.data.records import open_data
    from mm1_mlx.training.dry_run import dry_run

    if args.memory is None and args.dtype is None and mx.default_device() == mx.cpu:
        args.dtype = "float32"  # the type in which a CPU would load it; a Mac's GPU takes the stored type
    rows = open_data(args.data) if args.data else {}
    model, processor = flags.load_model(args, sizes_alone=True)
    if is_preset(args.model):
        print(f"{args.model}: sizes alone; tokens are counted by mm1-tiny's tokenizer, so lengths are rough")
    mac = None if args.memory is None else float(args.memory)  # YAML may give a whole number
    for line in dry_run(model, processor, rows, recipe, tuning, keep=options.cached_bytes, mac=mac):
        print(line)


def _train(
    args: argparse.Namespace,
    model: MM1,
    processor: Processor,
    rows: Mapping[Split, Records],
    recipe: Recipe,
    options: RunOptions,
    tuning: Tuning,
) -> None:
    import mlx.core as mx

    from mm1_mlx.training.dry_run import describe_learning
    from mm1_mlx.training.session import Session, require_fresh, run_task
    from mm1_mlx.training.tuning_task import TuningTask
    from mm1_mlx.tuning.folder import holds_adapter
    from mm1_mlx.vision.cache import VisionCache

    folder = _folder(args)
    require_fresh(folder, resume=args.resume)
    if holds_adapter(folder) and not args.resume:
        raise TrainingError(f"{folder} holds an adapter already; give another `folder`.")
    about = {"model": args.model, "data": args.data, "tuning": tuning.to_dict()}
    about |= recipe.to_dict() | options.to_dict()
    session = Session(args.json, args.report_to, args.project_name, about, args.resume, args.force)
    cache = VisionCache(options.cached_bytes) if options.cached_bytes else None
    task = TuningTask(model, processor, rows, recipe, tuning, vision_cache=cache)
    trainer = run_task(task, options, folder, session, notes=describe_learning(model))
    if task.batches.left_out:
        say(f"{number_of(len(task.batches.left_out), 'row')} left out")
    if mx.distributed.init().rank() == 0:
        _print_end(trainer, folder)


def _print_end(trainer: Trainer, folder: Path) -> None:
    progress = trainer.progress
    if trainer.stopped_by:
        say(f"stopped by {trainer.stopped_by} after update {progress.update}; --resume goes on.")
        return
    best = f"; best at update {progress.best_update}: {folder / 'best'}" if progress.best_update else ""
    say(f"The adapter is in {folder}{best}")


def _test(
    args: argparse.Namespace,
    model: MM1,
    processor: Processor,
    rows: Mapping[Split, Records],
    recipe: Recipe,
) -> None:
    from mm1_mlx.training.validation import mean_loss

    if "test" not in rows:
        raise DataError(f"{args.data} has no test rows; add test.jsonl.")
    loss, learned = mean_loss(model, processor, rows["test"], recipe)
    print(json.dumps({"test_loss": loss, "test_tokens": learned}))


def _check_data(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from mm1_mlx.data.check import check_data, render
    from mm1_mlx.data.records import open_data

    recipe = training_flags.with_flags(args, DEFAULT)
    records = open_data(args.check_data)
    _, processor = flags.load_model(args)
    limit = None if recipe.truncate else recipe.max_seq_length
    with tqdm(total=sum(map(len, records.values())), unit="row", file=sys.stderr, disable=None) as bar:
        report = check_data(records, processor, max_seq_length=limit, tick=bar.update)
    print(render(report))
    if report.bad:
        raise DataError(
            f"{number_of(len(report.bad), 'row')} cannot be used; put them right, or train with --skip-bad."
        )


main, script = entry_points(__doc__, add_arguments, run, take_defaults=_take_defaults)

if __name__ == "__main__":
    script()
