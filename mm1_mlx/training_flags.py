"""Flags of training, and their values.

``--help`` imports this file, so it imports nothing slow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from mm1_mlx.errors import UsageError
from mm1_mlx.settings import ADAPTER_RANK, ADAPTER_SCALE, How
from mm1_mlx.strict import Config
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import OPTIMIZERS, PART_NAMES, SCHEDULES, Recipe

if TYPE_CHECKING:
    from mm1_mlx.tuning.settings import Tuning

C = TypeVar("C", bound=Config)

ADAPTERS: tuple[How, ...] = ("lora", "dora")
HOW: tuple[How, ...] = tuple(how for how in get_args(How) if how != "frozen")
BY_PART = "; for one part alone as PART=VALUE, such as encoder=4"


def add_data(parser: argparse.ArgumentParser, default: Recipe) -> None:
    """Add the flags for which rows there are, and for how they become sequences."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="DIR", help="folder with train.jsonl, valid.jsonl, test.jsonl, or a hub id"
    )
    data.add_argument(
        "--max-seq-length",
        type=int,
        help=_help_with_default("tokens of a packed sequence", default.max_seq_length),
    )
    data.add_argument(
        "--pack",
        action=argparse.BooleanOptionalAction,
        help=_help_with_default("rows share a sequence", default.pack),
    )
    _add_switch(data, "--truncate", "cut rows that are longer, never inside a picture")
    _add_switch(data, "--skip-bad", "train without rows that cannot be used")
    _add_switch(data, "--train-on-prompt", "learn the user's turns too")
    data.add_argument(
        "--cache-visual-tokens", metavar="MB", type=float, nargs="?", const=4000.0,
        help="encode every picture once, where encoder and connector are frozen, and keep so much (4000)",
    )  # fmt: skip


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add the flags for which parts learn, and with which adapters."""
    parts = parser.add_argument_group("parts")
    parts.add_argument(
        "--fine-tune-type",
        choices=HOW,
        help=_help_with_default("of parts that --train names without HOW", ADAPTERS[0]),
    )
    layers = f"that learn: the last so many of decoder and encoder, -1 for all{BY_PART}"
    parts.add_argument("--num-layers", nargs="+", metavar="N", help=_help_with_default(layers, -1))
    adapters = f"of LoRA and DoRA{BY_PART}"
    parts.add_argument("--rank", nargs="+", metavar="N", help=_help_with_default(adapters, ADAPTER_RANK))
    parts.add_argument("--scale", nargs="+", metavar="X", help=_help_with_default(adapters, ADAPTER_SCALE))
    parts.add_argument("--dropout", nargs="+", metavar="P", help=_help_with_default(adapters, 0.0))
    parts.add_argument(
        "--keys", nargs="+", metavar="NAME",
        help="linears that get adapters, or patterns, of the decoder; of another part as PART=NAME; by default all",
    )  # fmt: skip


def add_how(parser: argparse.ArgumentParser, default: Recipe, *, rate: str) -> None:
    """Add the flags for batches, optimizer and memory; ``rate`` is the help of the learning rate."""
    how = parser.add_argument_group("how")
    how.add_argument("--iters", type=int, help=_help_with_default("updates", default.iters))
    how.add_argument(
        "--batch-size",
        type=int,
        help=_help_with_default("rows at once, all machines together", default.batch_size),
    )
    how.add_argument(
        "--grad-accumulation-steps", type=int, metavar="N",
        help=_help_with_default("batches for one update", default.grad_accumulation_steps),
    )  # fmt: skip
    how.add_argument("--learning-rate", type=float, help=rate)
    how.add_argument(
        "--learning-rate-factors", type=float, nargs=3, metavar=("ENCODER", "CONNECTOR", "DECODER"),
        help=_help_with_default("each part's share of the rate", default.learning_rate_factors),
    )  # fmt: skip
    how.add_argument(
        "--schedule", choices=SCHEDULES, help=_help_with_default("of the learning rate", default.schedule)
    )
    how.add_argument(
        "--warmup", type=int, help=_help_with_default("updates from 0 to the highest rate", default.warmup)
    )
    ends = _help_with_default("where the schedule ends, as a share of the highest rate", default.final_rate)
    how.add_argument("--final-rate", type=float, metavar="SHARE", help=ends)
    how.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        help=_help_with_default("that updates the weights", default.optimizer),
    )
    how.add_argument(
        "--weight-decay",
        type=float,
        help=_help_with_default("of adamw, lion, muon, sgd", default.weight_decay),
    )
    norm = _help_with_default("of the whole gradient; 0: not clipped", default.clip_norm)
    how.add_argument("--clip-norm", type=float, help=norm)
    _add_switch(how, "--grad-checkpoint", "less memory, more time")
    _add_switch(how, "--shard", "spread weights and optimizer over the processes of mlx.launch")
    how.add_argument("--vision-batch-size", type=int, metavar="N", help="views encoded together")
    how.add_argument(
        "--seed", type=int, help=_help_with_default("of order, adapters and dropout", default.seed)
    )


def add_run(parser: argparse.ArgumentParser, default: RunOptions) -> None:
    """Add the flags for what a run writes, and when."""
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--adapter-path", default="adapters", metavar="DIR", help="where adapter, checkpoints and metrics go"
    )
    batches = _help_with_default("of one validation; -1: all rows", default.val_batches)
    run.add_argument("--val-batches", type=int, help=batches)
    run.add_argument(
        "--steps-per-report", type=int, help=_help_with_default("updates", default.steps_per_report)
    )
    run.add_argument("--steps-per-eval", type=int, help=_help_with_default("updates", default.steps_per_eval))
    run.add_argument("--save-every", type=int, help=_help_with_default("updates", default.save_every))
    run.add_argument(
        "--keep", type=int, help=_help_with_default("checkpoints; older ones are deleted", default.keep)
    )
    add_reports(run)


def add_reports(group: Any) -> None:
    """Add the flags for where metrics are reported."""
    group.add_argument("--json", action="store_true", help="print metrics as JSON lines")
    group.add_argument(
        "--report-to", default="", metavar="NAMES", help="wandb, swanlab or both, with a comma between"
    )
    group.add_argument("--project-name", metavar="NAME", help="there")


def _add_switch(group: Any, flag: str, about: str) -> None:
    group.add_argument(flag, action="store_true", default=None, help=about)


def _help_with_default(about: str, default: Any) -> str:
    """Return the help of a flag with ``default``, while the flag's own default is None, so a resumed run keeps its value."""
    return f"{about} (default: {default})"


def with_flags(args: argparse.Namespace, settings: C) -> C:
    """Return ``settings`` with the values that flags, or the defaults set from a file, give.

    Raises:
        ConfigError: a value is out of range.
    """
    given = {field.name: getattr(args, field.name, None) for field in fields(settings)}
    given = {name: value for name, value in given.items() if value is not None}
    return type(settings).from_dict(settings.to_dict() | given)


def tuning_of(args: argparse.Namespace, before: Tuning | None = None) -> Tuning:
    """Return which parts learn, and how.

    Args:
        args: the parsed flags.
        before: the tuning of a run to resume, for what the flags leave open; by default adapters on the decoder.

    Raises:
        UsageError: a part or a way to learn is unknown, or a value is not a number.
        ConfigError: a value is out of range.
    """
    from mm1_mlx.tuning.settings import PartTuning, Tuning

    if before is None:
        before = Tuning(PartTuning("frozen"), PartTuning("frozen"), PartTuning(ADAPTERS[0]))
    hows, keys = _choose_hows(args, before), _parse_keys(args)
    num_layers = _parse_numbers("--num-layers", args.num_layers, int)
    rank, scale = _parse_numbers("--rank", args.rank, int), _parse_numbers("--scale", args.scale, float)
    dropout = _parse_numbers("--dropout", args.dropout, float)

    def make_part(name: str, how: How, own: PartTuning) -> PartTuning:
        if keys[name] and how not in ADAPTERS:
            raise UsageError(
                f"--keys names linears of the {name}, which gets no adapters; --train {name}=lora."
            )
        if how == "frozen":
            return PartTuning(how)
        layers = num_layers.get(name, own.num_layers)
        if how == "full":
            return PartTuning(how, num_layers=layers)
        return PartTuning(
            how,
            rank=rank.get(name, own.rank),
            scale=scale.get(name, own.scale),
            dropout=dropout.get(name, own.dropout),
            keys=tuple(keys[name]) or own.keys,
            num_layers=layers,
        )

    return Tuning(*(make_part(name, hows[name], getattr(before, part)) for name, part in PART_NAMES.items()))


def _choose_hows(args: argparse.Namespace, before: Tuning) -> dict[str, How]:
    """Return how each part learns, by the part's name."""
    hows: dict[str, How] = {name: getattr(before, part).how for name, part in PART_NAMES.items()}
    if not args.train:
        if args.fine_tune_type in (None, *hows.values()):
            return hows
        return {name: how if how == "frozen" else args.fine_tune_type for name, how in hows.items()}
    known: dict[str, How] = {how: how for how in HOW}
    chosen: dict[str, How] = dict.fromkeys(PART_NAMES, "frozen")
    for word in _list_words(args.train):
        name, _, how = word.partition("=")
        name = {"image_encoder": "encoder"}.get(name, name)
        if name not in PART_NAMES or (how and how not in known):
            raise UsageError(
                f"--train {word}: expected {', '.join(PART_NAMES)}, each alone or with ={', ='.join(HOW)}."
            )
        by_default = ADAPTERS[0] if hows[name] == "frozen" else hows[name]
        chosen[name] = known.get(how) or args.fine_tune_type or by_default
    return chosen


def _parse_numbers(flag: str, given: Any, kind: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the value of each part that has one, which is its own value or the one for all parts."""
    found: dict[str, Any] = {}
    for word in _list_words([] if given is None else given):
        name, value = _split_part(flag, word)
        if name in found:
            for_part = f" for the {name}" if name else ""
            raise UsageError(f"{flag} {word}: there is a value{for_part} already; give one, or PART=NUMBER.")
        try:
            found[name] = kind(value)
        except ValueError:
            raise UsageError(f"{flag} {word}: expected a number, or PART=NUMBER.") from None
    for_all = found.pop("", None)
    return found if for_all is None else dict.fromkeys(PART_NAMES, for_all) | found


def _parse_keys(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the names of linears, by part; a name without a part belongs to the decoder."""
    found: dict[str, list[str]] = {name: [] for name in PART_NAMES}
    for word in _list_words(args.keys or []):
        name, key = _split_part("--keys", word)
        found[name or "decoder"].append(key)
    return found


def _split_part(flag: str, word: str) -> tuple[str, str]:
    """Split ``PART=VALUE`` into the part, which is empty for ``VALUE`` alone, and the value."""
    name, _, value = word.rpartition("=")
    if name and name not in PART_NAMES:
        raise UsageError(f"{flag} {word}: there is no part {name!r}; there are {', '.join(PART_NAMES)}.")
    return name, value


def _list_words(given: Any) -> list[str]:
    """Return values as words of a command line; a YAML file may give a list, one value, or values by part."""
    if isinstance(given, Mapping):
        return [f"{part}={word}" for part, value in given.items() for word in _list_words(value)]
    return [str(word) for word in (given if isinstance(given, list) else [given])]
