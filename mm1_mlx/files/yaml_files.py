"""Read YAML files strictly: a key that appears twice is refused, and 1e-4 is a number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mm1_mlx.errors import ConfigError
from mm1_mlx.strict import shown

NUMBER = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$")  # YAML 1.1 reads 1e-4 as text


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that appears twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a YAML node whose keys are all different."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789"))


def read_mapping(path: Path, name: str, holds: str) -> dict[str, Any]:
    """Return the keys and values of a YAML file, with the hyphens of the keys turned into underscores.

    Args:
        path: the file.
        name: what to call it in messages.
        holds: what is in it, for messages: "flags and their values".

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not hold keys and values.
    """
    try:
        values = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"{name} cannot be read: {reason}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds {shown(values)}, expected {holds}.")
    try:
        return use_underscores(values)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def use_underscores(values: dict[Any, Any]) -> dict[str, Any]:
    """Return ``values`` with the hyphens of their keys turned into underscores, as Python writes names.

    Raises:
        ConfigError: a key is written in both ways.
    """
    found = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in found:
        if sum(str(other).replace("-", "_") == key for other in values) > 1:
            raise ConfigError(f"the key {key!r} stands twice, with - and with _.")
    return found
