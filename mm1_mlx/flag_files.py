"""Values of flags from a YAML file, each checked as its flag would be. ``--help`` imports this file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm1_mlx.errors import ConfigError, PromptError
from mm1_mlx.other_names import find_own_name

BY_PART = ("train", "rank", "scale", "dropout", "keys", "num_layers")  # a value, several, or one by part


def take_defaults(
    parser: argparse.ArgumentParser, argv: list[str] | None, recipes: Mapping[str, Mapping[str, Any]]
) -> None:
    """Set the defaults of ``parser`` from the flags that name recipes, and from the file that ``-c`` names.

    Args:
        parser: a parser with all its flags.
        argv: the words of the command line.
        recipes: values of flags, by the name of the flag that asks for them.

    Raises:
        ConfigError: the file cannot be read, or has a key that is no flag, or a value that its flag cannot have.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("-c", "--config")
    for name in recipes:
        early.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    found, _ = early.parse_known_args(argv)
    values = {} if found.config is None else _read_flags(Path(found.config).expanduser(), parser)
    for name, recipe in recipes.items():
        if getattr(found, name) or values.get(name):
            parser.set_defaults(**recipe)
    parser.set_defaults(**values)


def _read_flags(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Read flags and their values from a file; keys may have - or _, and adapters may be written as in mlx-lm."""
    from mm1_mlx.files.json_lines import require_known
    from mm1_mlx.files.yaml_files import read_mapping
    from mm1_mlx.strict import shown

    values = read_mapping(path, f"-c {path}", "flags and their values")
    within = values.pop("lora_parameters", {})
    if not isinstance(within, dict):
        raise ConfigError(
            f"-c {path}: lora_parameters is {shown(within)}, expected rank, scale, dropout and keys."
        )
    values |= within
    actions = {a.dest: a for a in parser._actions if a.dest not in ("help", "config", "version")}
    try:
        for key in values:
            if key not in actions and (own := find_own_name(f"--{key.replace('_', '-')}")):
                raise PromptError(f"{key}: {own}")
        require_known(values, sorted(actions))
    except PromptError as error:
        raise ConfigError(f"-c {path}: {error}") from None
    for key, value in values.items():
        try:
            values[key] = _check_value(actions[key], value)
        except ValueError as error:
            raise ConfigError(f"-c {path}: {key} is {shown(value)}, expected {error}.") from None
    return values


def _check_value(action: argparse.Action, value: Any) -> Any:
    """Return a value of a file as its flag gives it.

    Raises:
        ValueError: the flag cannot have it; the message says what it can have.
    """
    if value is None:
        if action.default not in (None, ""):
            raise ValueError(f"a value; leave {action.dest} out for {action.default}")
        return action.default
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if action.dest == "train" and isinstance(value, bool):  # as in mlx-lm, where it is a switch
        return [] if value else None
    if action.dest in BY_PART:
        for word in _leaves(value, "a value, a list of them, or one by part"):
            _check_word(word)
        return value
    if action.nargs == "?" and value is True:
        return action.const
    if isinstance(action.nargs, int):
        if not isinstance(value, list) or len(value) != action.nargs:
            raise ValueError(f"a list of {action.nargs} numbers")
        return [_check_one(action, one) for one in value]
    return _check_one(action, value)


def _leaves(value: Any, expected: str) -> list[Any]:
    """Return the words of a list or of a mapping of words and lists, or the one word that a value is."""
    inner = list(value.values()) if isinstance(value, dict) else [value]
    words = [word for entry in inner for word in (entry if isinstance(entry, list) else [entry])]
    if any(isinstance(word, list | dict) for word in words):
        raise ValueError(expected)
    return words


def _check_word(word: Any) -> None:
    if isinstance(word, bool) or not isinstance(word, str | int | float):
        raise ValueError("text or numbers")


def _check_one(action: argparse.Action, value: Any) -> Any:
    """Return one value that fits a flag's type and choices, or raise ``ValueError``."""
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"one of {', '.join(map(str, action.choices))}")
    if action.type is int and type(value) is not int:
        raise ValueError("a whole number")
    if action.type is float:
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # nor NaN
            raise ValueError("a number")
        return float(value)
    if action.type is None and (not isinstance(value, str) or "\0" in value):
        raise ValueError("text")
    return value
