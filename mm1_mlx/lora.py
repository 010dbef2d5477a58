"""Tune a model on your own pictures: LoRA, DoRA or in full, any part of it; check data; measure on test rows."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_mlx import flags
from mm1_mlx.command import exit_process, number_of, run_command, say
from mm1_mlx.errors import ConfigError, DataError, PromptError, TrainingError, UsageError
from mm1_mlx.training.settings import OPTIMIZERS, SCHEDULES, TrainingSettings

if TYPE_CHECKING:
    from mm1_mlx.model.adapters import Tuning

PARTS = {"encoder": "image_encoder", "connector": "connector", "decoder": "decoder"}
HOW = ("lora", "dora", "full")
DEFAULT = TrainingSettings(batch_size=16, schedule="cosine_decay")
RATE_TIMES_WIDTH = 0.12  # wider layers sum up more small changes, so they need smaller ones
MM1_SFT = {  # Source: MM1, "Supervised Fine-Tuning"
    "train": ["encoder=full", "connector=full", "decoder=full"],
    "optimizer": "adafactor",
    "learning_rate": 1e-5,
    "schedule": "cosine_decay",
}


def add_arguments(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> None:
    """All flags; what ``--mm1-sft`` and the file of ``-c`` in ``argv`` say become their defaults.

    Raises:
        ConfigError: the file cannot be read, or has a key that is no flag.
    """
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
        "--dry-run", action="store_true", help="tell what would be trained and the memory it needs"
    )
    what.add_argument("--force", action="store_true", help="begin though the memory will not do")
    what.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in --adapter-path"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="DIR", help="folder with train.jsonl, valid.jsonl, test.jsonl, or a hub id"
    )
    data.add_argument(
        "--max-seq-length", type=int, help="tokens of a packed sequence", default=DEFAULT.max_seq_length
    )
    data.add_argument("--no-pack", dest="pack", action="store_false", default=True, help="one row a sequence")
    data.add_argument(
        "--truncate", action="store_true", help="cut rows that are longer, never inside a picture"
    )
    data.add_argument("--skip-bad", action="store_true", help="train without rows that cannot be used")
    data.add_argument("--train-on-prompt", action="store_true", help="learn the user's turns too")
    data.add_argument(
        "--cache-visual-tokens", metavar="MB", type=float, nargs="?", const=4000.0,
        help="encode every picture once, where encoder and connector are frozen, and keep so much (4000)",
    )  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument(
        "--fine-tune-type", choices=HOW, default="lora", help="of parts that --train names without HOW"
    )
    how.add_argument(
        "--num-layers", type=int, default=-1, help="the last so many of decoder and encoder; -1: all"
    )
    how.add_argument("--rank", type=int, default=8, help="of LoRA and DoRA")
    how.add_argument("--scale", type=float, default=20.0, help="of LoRA and DoRA")
    how.add_argument("--dropout", type=float, default=0.0, help="of LoRA and DoRA")
    how.add_argument(
        "--keys",
        nargs="+",
        metavar="NAME",
        help="the decoder's linears that get adapters, or patterns; by default all",
    )
    how.add_argument("--iters", type=int, default=DEFAULT.iters, help="updates")
    how.add_argument(
        "--batch-size", type=int, default=DEFAULT.batch_size, help="rows at once, all machines together"
    )
    how.add_argument(
        "--grad-accumulation-steps",
        type=int,
        default=DEFAULT.grad_accumulation_steps,
        help="batches for one update",
    )
    how.add_argument(
        "--learning-rate",
        type=float,
        help=f"the highest; by default {RATE_TIMES_WIDTH} / the decoder's width",
    )
    how.add_argument(
        "--learning-rate-factors", type=float, nargs=3, default=DEFAULT.learning_rate_factors,
        metavar=("ENCODER", "CONNECTOR", "DECODER"), help="each part's share of the rate",
    )  # fmt: skip
    how.add_argument("--schedule", choices=SCHEDULES, default=DEFAULT.schedule, help="of the learning rate")
    how.add_argument("--warmup", type=int, default=DEFAULT.warmup, help="updates from 0 to the highest rate")
    how.add_argument(
        "--optimizer", choices=OPTIMIZERS, default=DEFAULT.optimizer, help="that updates the weights"
    )
    how.add_argument(
        "--weight-decay", type=float, default=DEFAULT.weight_decay, help="of adamw, lion, muon, sgd"
    )
    how.add_argument(
        "--clip-norm", type=float, default=DEFAULT.clip_norm, help="of the whole gradient; 0: not clipped"
    )
    how.add_argument("--grad-checkpoint", action="store_true", help="less memory, more time")
    how.add_argument("--vision-batch-size", type=int, metavar="N", help="views encoded together")
    how.add_argument("--seed", type=int, default=DEFAULT.seed, help="of order, adapters and dropout")
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--adapter-path", default="adapters", metavar="DIR", help="where adapter, checkpoints and metrics go"
    )
    run.add_argument(
        "--val-batches", type=int, default=DEFAULT.val_batches, help="of one validation; -1: all rows"
    )
    run.add_argument("--steps-per-report", type=int, default=DEFAULT.steps_per_report, help="updates")
    run.add_argument("--steps-per-eval", type=int, default=DEFAULT.steps_per_eval, help="updates")
    run.add_argument("--save-every", type=int, default=DEFAULT.save_every, help="updates")
    run.add_argument("--keep", type=int, default=DEFAULT.keep, help="checkpoints; older ones are deleted")
    run.add_argument("--json", action="store_true", help="print metrics as JSON lines")
    run.add_argument(
        "--report-to", default="", metavar="NAMES", help="wandb, swanlab or both, with a comma between"
    )
    run.add_argument("--project-name", metavar="NAME", help="there")
    _set_defaults(parser, argv)


def _set_defaults(parser: argparse.ArgumentParser, argv: list[str] | None) -> None:
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("-c", "--config")
    early.add_argument("--mm1-sft", action="store_true")
    found, _ = early.parse_known_args(argv)
    known = {action.dest for action in parser._actions} - {"help", "config"}
    if found.mm1_sft:
        parser.set_defaults(**MM1_SFT)
    if found.config is not None:
        parser.set_defaults(**_read_yaml(Path(found.config).expanduser(), known))


def _read_yaml(path: Path, known: set[str]) -> dict[str, Any]:
    """Flags and their values; the keys may be written with - or _."""
    import yaml

    from mm1_mlx.inputs.json_lines import require_known

    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"-c {path} cannot be read: {reason}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"-c {path} holds {values!r}, expected flags and their values.")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    try:
        require_known(values, sorted(known))
    except PromptError as error:
        raise ConfigError(f"-c {path}: {error}") from None
    return values


def run(args: argparse.Namespace) -> None:
    if args.check_data:
        _check_data(args)
        return
    if args.train is None and not (args.test or args.dry_run):
        raise UsageError("there is nothing to do; give --train, --test, --dry-run or --check-data DIR.")
    if args.data is None:
        raise UsageError("--data is missing; give a folder with train.jsonl, or a hub id.")
    names = {field.name for field in fields(TrainingSettings)}
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings = TrainingSettings.from_dict(given)
    tuning = _tuning(args)
    from mm1_mlx.training.records import open_data

    rows = open_data(args.data)
    model, processor = flags.load_model(args)
    if args.learning_rate is None:
        rate = RATE_TIMES_WIDTH / model.config.text_config.hidden_dims
        settings = replace(settings, learning_rate=float(f"{rate:.1e}"))
    if args.dry_run:
        _dry_run(args, model, processor, rows, settings, tuning)
        return
    if args.train is not None:
        _train(args, model, processor, rows, settings, tuning)
    if args.test:
        _test(args, model, processor, rows, settings)


def _tuning(args: argparse.Namespace) -> Tuning:
    """Which parts learn, and how."""
    from mm1_mlx.model.adapters import PartTuning, Tuning

    chosen = {}
    for word in args.train or ["decoder"]:
        part, _, how = word.partition("=")
        part = {"image_encoder": "encoder"}.get(part, part)
        if part not in PARTS or (how and how not in HOW):
            raise UsageError(
                f"--train {word}: expected {', '.join(PARTS)}, each alone or with ={', ='.join(HOW)}."
            )
        chosen[PARTS[part]] = how or args.fine_tune_type
    parts = {}
    for part in PARTS.values():
        adapters = {"rank": args.rank, "scale": args.scale, "dropout": args.dropout}
        how = chosen.get(part, "frozen")
        keys = tuple(args.keys or ()) if part == "decoder" else ()
        options = adapters | {"num_layers": args.num_layers, "keys": keys} if how in ("lora", "dora") else {}
        parts[part] = PartTuning(how=how, **options)
    return Tuning(**parts)


def _dry_run(
    args: argparse.Namespace,
    model: Any,
    processor: Any,
    rows: dict,
    settings: TrainingSettings,
    tuning: Tuning,
) -> None:
    from mm1_mlx.generation.machine import machine_memory
    from mm1_mlx.model.adapters import prepare
    from mm1_mlx.training.batches import Batches
    from mm1_mlx.training.estimate import training_need
    from mm1_mlx.training.packing import can_pack

    prepare(model, tuning)
    for name, found in rows.items():
        print(f"{name}: {number_of(len(found), 'row')}")
    print("\n".join(_learning(model)))
    batches = Batches(rows["train"], processor, settings, packing=settings.pack and can_pack(model))
    sequences = next(batches.updates(0, 1))
    batches.close()
    need = training_need(model, sequences, settings)
    for field in fields(need):
        print(f"{field.name:<12} {getattr(need, field.name) / 1e9:8.3f} GB")
    verdict = "fits" if need.total <= machine_memory() else "does not fit"
    bound = " at most, for --grad-checkpoint takes less" if settings.grad_checkpoint else ""
    print(
        f"{'sum':<12} {need.total / 1e9:8.3f} GB{bound}: {verdict} the {machine_memory() / 1e9:.1f} GB here"
    )


def _learning(model: Any) -> list[str]:
    """How much of each part of a prepared model learns."""
    from mm1_mlx.model.adapters import trained_counts

    counts = trained_counts(model).items()
    return [f"{part}: {trained:,} of {total:,} parameters learn" for part, (trained, total) in counts]


def _require_memory(trainer: Any, settings: TrainingSettings) -> None:
    """Refuse a run that will not fit, before it begins."""
    from mm1_mlx.generation.machine import machine_memory
    from mm1_mlx.training.estimate import training_need

    sequences = next(trainer.batches.updates(0, 1))
    trainer.batches.left_out.clear()  # they are told when their update comes
    if not sequences or settings.grad_checkpoint:
        return
    need, there = training_need(trainer.model, sequences, settings), machine_memory()
    if need.total > there:
        raise TrainingError(
            f"this run needs about {need.total / 1e9:.1f} GB (activations {need.activations / 1e9:.1f}, optimizer "
            f"{need.optimizer / 1e9:.1f}), but there are {there / 1e9:.1f} GB; lower --max-seq-length or --batch-size, "
            "give --grad-checkpoint, train fewer parts, or try it with --force."
        )


def _train(
    args: argparse.Namespace,
    model: Any,
    processor: Any,
    rows: dict,
    settings: TrainingSettings,
    tuning: Tuning,
) -> None:
    import mlx.core as mx

    from mm1_mlx.generation.vision_cache import VisionCache
    from mm1_mlx.training.curve import draw_curve
    from mm1_mlx.training.progress import ProgressBar
    from mm1_mlx.training.reporters import Reporter
    from mm1_mlx.training.state import newest_checkpoint
    from mm1_mlx.training.trainer import Trainer

    folder = Path(args.adapter_path).expanduser()
    there = newest_checkpoint(folder)
    if there is not None and not args.resume:
        raise TrainingError(
            f"{there} is there already; --resume goes on from it, or give another --adapter-path."
        )
    cache = None
    if args.cache_visual_tokens is not None:
        cache = VisionCache(int(args.cache_visual_tokens * 1e6))
    first = mx.distributed.init().rank() == 0
    about = {"model": args.model, "data": args.data} | settings.to_dict() | {"tuning": tuning.to_dict()}
    reporter = Reporter(args.report_to if first else "", args.project_name, folder, about)
    with ProgressBar(settings, json_lines=args.json, quiet=not first) as bar:

        def report(line: dict[str, Any]) -> None:
            bar.report(line)
            reporter.report(line)

        trainer = Trainer(model, processor, rows, settings, tuning, folder, vision_cache=cache, report=report)
        bar.say("\n".join(_learning(model)))
        if not args.force:
            _require_memory(trainer, settings)
        if args.resume and not trainer.resume():
            bar.say(f"there is no checkpoint in {folder} yet; beginning at the start")
        bar.start(trainer.progress.update)
        progress = trainer.train()
    if trainer.batches.left_out:
        say(f"{number_of(len(trainer.batches.left_out), 'row')} left out")
    if not first:
        return
    draw_curve(folder)
    if trainer.stopped_by:
        say(f"stopped by {trainer.stopped_by} after update {progress.update}; --resume goes on.")
        return
    best = f"; best at update {progress.best_update}: {folder / 'best'}" if progress.best_update else ""
    say(f"The adapter is in {folder}{best}")


def _test(
    args: argparse.Namespace, model: Any, processor: Any, rows: dict, settings: TrainingSettings
) -> None:
    from mm1_mlx.training.evaluate import mean_loss

    if "test" not in rows:
        raise DataError(f"{args.data} has no test rows; add test.jsonl.")
    loss, learned = mean_loss(model, processor, rows["test"], settings)
    print(json.dumps({"test_loss": loss, "test_tokens": learned}))


def _check_data(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from mm1_mlx.training.data_check import check_data, render
    from mm1_mlx.training.records import open_data

    records = open_data(args.check_data)
    _, processor = flags.load_model(args)
    limit = None if args.truncate else args.max_seq_length
    with tqdm(total=sum(map(len, records.values())), unit="row", file=sys.stderr, disable=None) as bar:
        report = check_data(records, processor, max_seq_length=limit, tick=bar.update)
    print(render(report))
    if report.bad:
        raise DataError(
            f"{number_of(len(report.bad), 'row')} cannot be used; put them right, or train with --skip-bad."
        )


def main(argv: list[str] | None = None) -> int:
    return run_command(__doc__, lambda parser: add_arguments(parser, argv), run, argv)


def script() -> None:
    """The console script."""
    exit_process(main())


if __name__ == "__main__":
    script()
