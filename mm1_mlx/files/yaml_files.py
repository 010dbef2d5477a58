"""YAML files, read strictly: a key that stands twice is refused, and 1e-4 is a number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mm1_mlx.errors import ConfigError
from mm1_mlx.strict import shown

NUMBER = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$")  # YAML 1.1 takes 1e-4 for text


class _Loader(yaml.SafeLoader):
    """As YAML's own, but strict."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node whose keys differ from each other."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789"))


def read_mapping(path: Path, name: str, holds: str) -> dict[str, Any]:
    """Return the keys and values of a YAML file, the keys as they are written in Python: with _ for -.

    Args:
        path: the file.
        name: what to call it in messages.
        holds: what is in it, for messages: "flags and their values".

    Raises:
        ConfigError: it cannot be read, or is no YAML, or something else.
    """
    try:
        values = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"{name} cannot be read: {reason}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds {shown(values)}, expected {holds}.")
    try:
        return underscored(values)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def underscored(values: dict[Any, Any]) -> dict[str, Any]:
    """Return keys as they are written in Python: with _ for -.

    Raises:
        ConfigError: a key stands there in both ways.
    """
    found = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in found:
        if sum(str(other).replace("-", "_") == key for other in values) > 1:
            raise ConfigError(f"the key {key!r} stands twice, with - and with _.")
    return found
