"""When a run reports, validates and saves. ``--help`` imports this file, so it imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass

from mm1_mlx.strict import LARGEST, Config


@dataclass(frozen=True)
class RunOptions(Config):
    """When a run reports, validates and saves. A resumed run may change all of it."""

    steps_per_report: int = 10  # updates
    steps_per_eval: int = 200
    val_batches: int = 25  # batches of one validation; -1: all rows
    save_every: int = 100
    keep: int = 2  # checkpoints; older ones are deleted
    cache_visual_tokens: float = 0.0  # MB of them kept, where image encoder and connector are frozen

    def __post_init__(self) -> None:
        self._require_positive("steps_per_report", "steps_per_eval", "save_every", "keep")
        self._require(
            self.val_batches == -1 or self.val_batches > 0,
            f"val_batches is {self.val_batches}, expected more than 0, or -1 for all.",
        )
        self._require(
            0 <= self.cache_visual_tokens < LARGEST,
            f"cache_visual_tokens is {self.cache_visual_tokens:g}, expected 0 to 2^31 MB.",
        )

    @property
    def cached_bytes(self) -> int:
        """The most bytes of visual tokens to keep."""
        return int(self.cache_visual_tokens * 1e6)
