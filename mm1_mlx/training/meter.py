"""How a run goes: what is measured between two reports, and the file that keeps the reports."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.files.writing import new_file


@dataclass
class Meter:
    """What happened since the last report, in all processes."""

    start: float = field(default_factory=time.perf_counter)
    loss: float = 0.0
    routers: float = 0.0  # their loss, where they learn
    learned: int = 0
    tokens: int = 0
    places: int = 0  # padding included
    pictures: int = 0
    updates: int = 0
    waited: float = 0.0

    def count(
        self, loss: float, routers: float, learned: int, tokens: int, places: int, pictures: int
    ) -> None:
        """One more update, of so much."""
        self.updates += 1
        self.loss += loss
        self.routers += routers
        self.learned += learned
        self.tokens += tokens
        self.places += places
        self.pictures += pictures

    def line(self, update: int, learning_rate: float, waited: float) -> dict[str, Any]:
        """The report.

        Args:
            update: the last one.
            learning_rate: that it had.
            waited: seconds for data, since the run began.
        """
        seconds = max(time.perf_counter() - self.start, 1e-9)
        return {
            "update": update,
            "loss": self.loss / max(self.learned, 1),
            **({"router_loss": self.routers / max(self.learned, 1)} if self.routers else {}),
            "learning_rate": learning_rate,
            "updates_per_second": self.updates / seconds,
            "tokens_per_second": self.tokens / seconds,
            "pictures_per_second": self.pictures / seconds,
            "padding": 1 - self.tokens / max(self.places, 1),
            "data_wait": (waited - self.waited) / seconds,
            "peak_memory": mx.get_peak_memory(),
        }


def forget_after(path: Path, update: int) -> None:
    """Take lines of updates that are done again out of the file; they would stand there twice."""
    if path.exists():
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        kept = "".join(f"{line}\n" for line in lines if json.loads(line)["update"] <= update)
        with new_file(path) as temporary:
            temporary.write_text(kept, "utf-8")
