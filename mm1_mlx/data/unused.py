"""Refuse keys of a row that carry something to learn from, or to learn otherwise, and that its form does not read.

Other unknown keys, such as ids and sources, are nobody's loss.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from mm1_mlx.errors import DataError
from mm1_mlx.strict import shown

CONTENT = frozenset(
    {
        *("tools", "tool_calls", "functions", "function_call", "documents", "context", "passage", "history"),
        *(
            "system",
            "system_prompt",
            "instruction",
            "instructions",
            "input",
            "output",
            "prompt",
            "completion",
        ),
        *("response", "chosen", "rejected", "hint", "lecture", "solution", "explanation", "rationale", "cot"),
        *("system_message", "paragraph", "objects", "reason"),
        *("reasoning", "reasoning_content", "thinking", "thought", "thoughts", "refusal"),
        *("image", "images", "video", "videos", "audio", "audios", "answer"),
        *("messages", "conversations", "question", "texts", "caption", "text"),
    }
)
PICTURE = re.compile(
    r"(image|img|picture|photo|pic)s?([_-]?(path|file|url|uri|link|src|name|bytes|data|base64|b64)s?)*|file_?name",
    re.I,
)  # keys under which a picture may stand
FURTHER_PICTURE = re.compile(r"(image|img|picture|photo|pic)s?[_-]?[0-9]+", re.I)
WEIGHTS = (
    "weight",
    "train",
    "loss_weight",
    "trainable",
)  # of a turn; all turns of the assistant are learned alike


def require_used(values: Mapping[str, Any], used: Collection[str], field: str = "") -> None:
    """Refuse content that is not used.

    Args:
        values: a row, a turn or a part of one.
        used: the keys that its form reads.
        field: the name of ``values`` in messages; "" for the row.

    Raises:
        DataError: a key has such content; the message names it.
    """
    for key, value in values.items():
        name = f"{field}.{key}" if field else key
        is_content = key.lower() in CONTENT or FURTHER_PICTURE.fullmatch(key)
        if is_content and key.lower() not in used and not _is_empty(value):
            raise DataError(
                f"{name} is {shown(value)}, which is not read here beside {' and '.join(sorted(used))}; write it into "
                "the text, or take it out."
            )
        if field and key in WEIGHTS and value not in (None, 1, True):
            raise DataError(
                f"{name} is {shown(value)}, but all turns of the assistant are learned alike; take it out, or split "
                "the row."
            )


def require_no_picture(values: Mapping[str, Any]) -> None:
    """Refuse a row whose only picture stands under a key that no form reads.

    Raises:
        DataError: there is such a key; the message names it.
    """
    for key, value in values.items():
        if PICTURE.fullmatch(key) and key not in ("image", "images") and not _is_empty(value):
            raise DataError(f"{key} is {shown(value)}, which is not read; call it image, or take it out.")


def _is_empty(value: Any) -> bool:
    """Tell whether a value has nothing in it; Arrow fills objects with nulls."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_empty, value))
    return value is None or value is False or (isinstance(value, str) and not value.strip())
