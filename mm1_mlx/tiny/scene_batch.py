"""A batch for tasks that learn from scenes made when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SceneBatch:
    """The scenes that are learned from together, as a micro-batch of the trainer."""

    arrays: tuple[Any, ...]  # pixels first, then labels
    num_learned: int  # scenes
    names: tuple[str, ...] = ()
    num_tokens: int = 0
    num_places: int = 0

    @property
    def num_pictures(self) -> int:
        """The number of pictures, of which a scene may have more than one."""
        return len(self.arrays[0])
