"""Write JSON files the way this package writes all of them, and read them with errors in the user's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mm1_mlx.errors import CheckpointError


def write_json(path: Path, values: Any) -> None:
    """Write values as indented JSON, for people to read."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_json(path: Path, absent: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        CheckpointError: the file is absent (the message is ``absent``), cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(absent) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or a number too large to parse
        raise CheckpointError(f"{path} is not valid JSON ({error}).") from None
