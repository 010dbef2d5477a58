"""Find a folder's chat template in any of the places where publishers keep one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_files import parse_json
from mm1_mlx.files.tensor_files import report_unreadable

FILE = "chat_template.jinja"
LEGACY = "chat_template.json"
MORE = "additional_chat_templates"  # a folder of templates by name
PLACES = (
    "processor_config.json",
    LEGACY,
    FILE,
    f"{MORE}/default.jinja",
    "tokenizer_config.json",
)  # in transformers' order: what a processor reads comes before what a tokenizer reads


def find_chat_template(*folders: Path) -> str | None:
    """Return the chat template of the first folder that has one, or None.

    Where a place holds several templates by name, the one called "default" is taken.

    Raises:
        CheckpointError: a place cannot be read, or holds named templates of which none is the default.
    """
    for folder in folders:
        for place in PLACES:
            path = folder / place
            if path.is_file() and (found := _read_template(path)) is not None:
                return found
    return None


def _read_template(path: Path) -> str | None:
    if path.suffix == ".jinja":
        with report_unreadable(path):
            try:
                return path.read_text(encoding="utf-8-sig")
            except UnicodeError as error:
                raise CheckpointError(f"{path} is not UTF-8 text ({error}).") from None
    values = parse_json(path, f"{path} is not there.")
    found = values.get("chat_template") if isinstance(values, dict) else None
    if found is None and path.name == LEGACY:
        raise CheckpointError(
            f"{path} has no key chat_template; write the template under it, or delete the file."
        )
    if found is None or isinstance(found, str):
        return found
    named = _named(found)
    if "default" not in named:
        shown = ", ".join(map(repr, named)) or f"{type(found).__name__} without names"
        raise CheckpointError(f"{path}: chat_template holds {shown}, expected a text or one named 'default'.")
    return named["default"]


def _named(found: Any) -> dict[str, str]:
    """Return templates by name, which are stored as an object or as a list of names and texts."""
    if isinstance(found, list):
        found = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
    if not isinstance(found, dict):
        return {}
    return {name: text for name, text in found.items() if isinstance(name, str) and isinstance(text, str)}
