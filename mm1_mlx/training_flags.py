"""Flags of training, their defaults from a YAML file, and what they say once parsed. Light: ``--help`` reads it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_mlx.data.settings import OPTIMIZERS, SCHEDULES, TrainingSettings
from mm1_mlx.errors import ConfigError, PromptError, UsageError
from mm1_mlx.settings import ADAPTER_RANK, ADAPTER_SCALE

if TYPE_CHECKING:
    from mm1_mlx.tuning.settings import Tuning

PARTS = {"encoder": "image_encoder", "connector": "connector", "decoder": "decoder"}
ADAPTERS = ("lora", "dora")
HOW = (*ADAPTERS, "full")
MEANT = {"frozen": (), "full": ("num_layers",)}  # the options that a way to learn has
MEANT |= dict.fromkeys(ADAPTERS, ("num_layers", "rank", "scale", "dropout"))
BY_PART = "; for one part alone as PART=VALUE, such as encoder=4"


def add_data(parser: argparse.ArgumentParser, default: TrainingSettings) -> None:
    """Which rows, and how they become sequences."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="DIR", help="folder with train.jsonl, valid.jsonl, test.jsonl, or a hub id"
    )
    data.add_argument(
        "--max-seq-length", type=int, default=default.max_seq_length, help="tokens of a packed sequence"
    )
    data.add_argument(
        "--pack", action=argparse.BooleanOptionalAction, default=default.pack, help="rows share a sequence"
    )
    data.add_argument(
        "--truncate", action="store_true", help="cut rows that are longer, never inside a picture"
    )
    data.add_argument("--skip-bad", action="store_true", help="train without rows that cannot be used")
    data.add_argument("--train-on-prompt", action="store_true", help="learn the user's turns too")
    data.add_argument(
        "--cache-visual-tokens", metavar="MB", type=float, nargs="?", const=4000.0,
        help="encode every picture once, where encoder and connector are frozen, and keep so much (4000)",
    )  # fmt: skip


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Which parts learn, and by which adapters."""
    parts = parser.add_argument_group("parts")
    parts.add_argument(
        "--fine-tune-type", choices=HOW, default="lora", help="of parts that --train names without HOW"
    )
    parts.add_argument(
        "--num-layers", nargs="+", default=-1, metavar="N",
        help=f"that learn: the last so many of decoder and encoder, -1 for all{BY_PART}",
    )  # fmt: skip
    parts.add_argument(
        "--rank", nargs="+", default=ADAPTER_RANK, metavar="N", help=f"of LoRA and DoRA{BY_PART}"
    )
    parts.add_argument(
        "--scale", nargs="+", default=ADAPTER_SCALE, metavar="X", help=f"of LoRA and DoRA{BY_PART}"
    )
    parts.add_argument("--dropout", nargs="+", default=0.0, metavar="P", help=f"of LoRA and DoRA{BY_PART}")
    parts.add_argument(
        "--keys", nargs="+", metavar="NAME",
        help="linears that get adapters, or patterns, of the decoder; of another part as PART=NAME; by default all",
    )  # fmt: skip


def add_how(parser: argparse.ArgumentParser, default: TrainingSettings, *, rate: str) -> None:
    """Batches, optimizer and memory. ``rate`` tells the default of the learning rate."""
    how = parser.add_argument_group("how")
    how.add_argument("--iters", type=int, default=default.iters, help="updates")
    how.add_argument(
        "--batch-size", type=int, default=default.batch_size, help="rows at once, all machines together"
    )
    how.add_argument(
        "--grad-accumulation-steps", type=int, default=default.grad_accumulation_steps, metavar="N",
        help="batches for one update",
    )  # fmt: skip
    how.add_argument("--learning-rate", type=float, help=rate)
    how.add_argument(
        "--learning-rate-factors", type=float, nargs=3, default=default.learning_rate_factors,
        metavar=("ENCODER", "CONNECTOR", "DECODER"), help="each part's share of the rate",
    )  # fmt: skip
    how.add_argument("--schedule", choices=SCHEDULES, default=default.schedule, help="of the learning rate")
    how.add_argument("--warmup", type=int, default=default.warmup, help="updates from 0 to the highest rate")
    how.add_argument(
        "--optimizer", choices=OPTIMIZERS, default=default.optimizer, help="that updates the weights"
    )
    how.add_argument(
        "--weight-decay", type=float, default=default.weight_decay, help="of adamw, lion, muon, sgd"
    )
    how.add_argument(
        "--clip-norm", type=float, default=default.clip_norm, help="of the whole gradient; 0: not clipped"
    )
    how.add_argument("--grad-checkpoint", action="store_true", help="less memory, more time")
    how.add_argument(
        "--shard", action="store_true", help="spread weights and optimizer over the processes of mlx.launch"
    )
    how.add_argument("--vision-batch-size", type=int, metavar="N", help="views encoded together")
    how.add_argument("--seed", type=int, default=default.seed, help="of order, adapters and dropout")


def add_run(parser: argparse.ArgumentParser, default: TrainingSettings) -> None:
    """What a run leaves behind, and when."""
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--adapter-path", default="adapters", metavar="DIR", help="where adapter, checkpoints and metrics go"
    )
    run.add_argument(
        "--val-batches", type=int, default=default.val_batches, help="of one validation; -1: all rows"
    )
    run.add_argument("--steps-per-report", type=int, default=default.steps_per_report, help="updates")
    run.add_argument("--steps-per-eval", type=int, default=default.steps_per_eval, help="updates")
    run.add_argument("--save-every", type=int, default=default.save_every, help="updates")
    run.add_argument("--keep", type=int, default=default.keep, help="checkpoints; older ones are deleted")
    run.add_argument("--json", action="store_true", help="print metrics as JSON lines")
    run.add_argument(
        "--report-to", default="", metavar="NAMES", help="wandb, swanlab or both, with a comma between"
    )
    run.add_argument("--project-name", metavar="NAME", help="there")


def settings_of(args: argparse.Namespace) -> TrainingSettings:
    """Of the run.

    Raises:
        ConfigError: a value is out of range.
    """
    names = {field.name for field in fields(TrainingSettings)}
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return TrainingSettings.from_dict(given)


def tuning_of(args: argparse.Namespace) -> Tuning:
    """Which parts learn, and how.

    Raises:
        UsageError: a part or a way to learn is unknown, or a value is no number.
        ConfigError: a value is out of range.
    """
    from mm1_mlx.tuning.settings import PartTuning, Tuning

    hows, keys = _hows(args), _keys(args)
    options = {
        "num_layers": _numbers("--num-layers", args.num_layers, int),
        "rank": _numbers("--rank", args.rank, int),
        "scale": _numbers("--scale", args.scale, float),
        "dropout": _numbers("--dropout", args.dropout, float),
    }
    parts = {}
    for name, part in PARTS.items():
        how = hows.get(name, "frozen")
        if keys[name] and how not in ADAPTERS:
            raise UsageError(
                f"--keys names linears of the {name}, which gets no adapters; --train {name}=lora."
            )
        own = {option: options[option][name] for option in MEANT[how] if name in options[option]}
        parts[part] = PartTuning(how=how, keys=tuple(keys[name]), **own)
    return Tuning(**parts)


def _hows(args: argparse.Namespace) -> dict[str, str]:
    """How the parts learn that do."""
    chosen = {}
    for word in _words(args.train or ["decoder"]):
        name, _, how = word.partition("=")
        name = {"image_encoder": "encoder"}.get(name, name)
        if name not in PARTS or (how and how not in HOW):
            raise UsageError(
                f"--train {word}: expected {', '.join(PARTS)}, each alone or with ={', ='.join(HOW)}."
            )
        chosen[name] = how or args.fine_tune_type
    return chosen


def _numbers(flag: str, given: Any, kind: Callable[[Any], Any]) -> dict[str, Any]:
    """A value for each part that has one: the one for all, or its own."""
    found: dict[str, Any] = {}
    for word in _words(given):
        name, value = _of_part(flag, word)
        try:
            number = kind(value)
        except ValueError:
            raise UsageError(f"{flag} {word}: expected a number, or PART=NUMBER.") from None
        found |= {name: number} if name else {part: number for part in PARTS if part not in found}
    return found


def _keys(args: argparse.Namespace) -> dict[str, list[str]]:
    """Names of linears by part; a name without a part is the decoder's."""
    found: dict[str, list[str]] = {name: [] for name in PARTS}
    for word in _words(args.keys or []):
        name, key = _of_part("--keys", word)
        found[name or "decoder"].append(key)
    return found


def _of_part(flag: str, word: str) -> tuple[str, str]:
    """The part that ``PART=VALUE`` is for, none for ``VALUE`` alone, and the value."""
    name, _, value = word.rpartition("=")
    if name and name not in PARTS:
        raise UsageError(f"{flag} {word}: there is no part {name!r}; there are {', '.join(PARTS)}.")
    return name, value


def _words(given: Any) -> list[str]:
    """As on the command line; a YAML file may also give one value alone, or a mapping from parts to values."""
    if isinstance(given, Mapping):
        return [f"{part}={word}" for part, value in given.items() for word in _words(value)]
    return [str(word) for word in (given if isinstance(given, list) else [given])]


def take_defaults(
    parser: argparse.ArgumentParser, argv: list[str] | None, recipes: Mapping[str, Mapping[str, Any]]
) -> None:
    """What the recipes' flags and the file of ``-c`` in ``argv`` say become the defaults of ``parser``.

    Args:
        parser: with all its flags.
        argv: the command's words.
        recipes: values of flags, by the name of the flag that asks for them.

    Raises:
        ConfigError: the file cannot be read, or has a key that is no flag.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("-c", "--config")
    for name in recipes:
        early.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    found, _ = early.parse_known_args(argv)
    known = {action.dest for action in parser._actions} - {"help", "config"}
    values = {} if found.config is None else _read_yaml(Path(found.config).expanduser(), known)
    for name, recipe in recipes.items():
        if getattr(found, name) or values.get(name):
            parser.set_defaults(**recipe)
    parser.set_defaults(**values)


def _read_yaml(path: Path, known: set[str]) -> dict[str, Any]:
    """Flags and their values; the keys may be written with - or _, and adapters as mlx-lm writes them."""
    import yaml

    from mm1_mlx.files.json_lines import require_known

    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"-c {path} cannot be read: {reason}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"-c {path} holds {values!r}, expected flags and their values.")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    within = values.pop("lora_parameters", {})
    if not isinstance(within, dict):
        raise ConfigError(
            f"-c {path}: lora_parameters is {within!r}, expected rank, scale, dropout and keys."
        )
    values |= within
    try:
        require_known(values, sorted(known))
    except PromptError as error:
        raise ConfigError(f"-c {path}: {error}") from None
    return values
