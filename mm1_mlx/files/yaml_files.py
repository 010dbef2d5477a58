"""Read YAML files strictly: a key that appears twice is refused, 1e-4 is a number, and a small file stays small."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from mm1_mlx.errors import ConfigError
from mm1_mlx.strict import shown

NUMBER = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$")  # YAML 1.1 reads 1e-4 as text
MOST_BYTES = 1_000_000  # of a file
MOST_VALUES = 100_000  # of a file, with every *alias written out


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that appears twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a YAML node whose keys are all different."""
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for name, count in names.items():
            if count > 1:
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
        ConfigError: the file cannot be read, is not YAML, is too large, or does not hold keys and values.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        values = _parse(content.decode("utf-8-sig"))
    # a tag such as !!bool before another word makes PyYAML fail with any of these
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:  # fmt: skip
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"{name} cannot be read: {reason}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds {shown(values)}, expected {holds}.")
    try:
        return use_underscores(values)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_values(node, {}) > MOST_VALUES:
            raise ValueError(f"its *aliases stand for more than {MOST_VALUES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values that a node stands for, with its aliases written out.

    Args:
        node: the node.
        known: counts of nodes seen before, by their identity; 0 for those that are being counted.

    Raises:
        ValueError: the node contains itself.
    """
    if id(node) not in known:
        known[id(node)] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_count_values(part, known) for part in parts)
    if not known[id(node)]:
        raise ValueError("an *alias stands inside of what it stands for")
    return known[id(node)]


def use_underscores(values: dict[Any, Any]) -> dict[str, Any]:
    """Return ``values`` with the hyphens of their keys turned into underscores, as Python writes names.

    Raises:
        ConfigError: a key is written in both ways.
    """
    found = [str(key).replace("-", "_") for key in values]
    for key, count in Counter(found).items():
        if count > 1:
            raise ConfigError(f"the key {key!r} stands twice, with - and with _.")
    return dict(zip(found, values.values(), strict=True))
