"""What a run prints: a progress bar with the latest numbers, and a line for each report."""

from __future__ import annotations

import json
import sys
from typing import Any

from tqdm import tqdm


class ProgressBar:
    """A progress bar on stderr, and reports on stdout.

    Args:
        iters: number of updates of the run.
        json_lines: print reports as they are in ``metrics.jsonl``.
        quiet: show no bar and no messages, as in all processes but the first.
    """

    def __init__(self, iters: int, *, json_lines: bool = False, quiet: bool = False):
        self._json_lines = json_lines
        self._quiet = quiet
        self._bar = tqdm(
            total=iters,
            unit="update",
            file=sys.stderr,
            dynamic_ncols=True,
            disable=True if quiet else None,
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def start(self, update: int) -> None:
        """Begin the bar at ``update``, the number of updates already done."""
        self._bar.initial = update
        self._bar.reset()
        self._bar.update(update)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)

    def report(self, line: dict[str, Any]) -> None:
        """Print one line of ``metrics.jsonl``, and move the bar."""
        if "loss" in line:
            self._bar.update(line["update"] - self._bar.n)
            self._bar.set_postfix(loss=f"{line['loss']:.3f}", lr=f"{line['learning_rate']:.1e}")
        tqdm.write(json.dumps(line) if self._json_lines else describe_report(line), file=sys.stdout)


def describe_report(line: dict[str, Any]) -> str:
    """Return a report as a line for people to read."""
    if "val_loss" in line:
        return f"update {line['update']}: validation loss {line['val_loss']:.4f} on {line['val_rows']:,} rows"
    parts = [
        f"loss {line['loss']:.4f}",
        f"learning rate {line['learning_rate']:.2e}",
        f"{line['tokens_per_second']:,.0f} tokens/s" * bool(line["tokens_per_second"]),
        f"{line['pictures_per_second']:,.1f} pictures/s",
        f"{100 * line['padding']:.1f} % padding" * bool(line["tokens_per_second"]),
        f"{100 * line['data_wait']:.1f} % waiting for data",
        f"peak memory {line['peak_memory'] / 1e9:.2f} GB",
    ]
    return f"update {line['update']}: {', '.join(filter(None, parts))}"
