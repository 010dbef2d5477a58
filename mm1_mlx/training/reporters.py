"""Where else metrics go: the services that mlx-lm reports to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from mm1_mlx.errors import UsageError
from mm1_mlx.model.mlx_lm_parts import get_reporting_callbacks

NAMES = {"update": "iteration", "loss": "train_loss"}  # mlx-lm's own


class Reporter:
    """Sends every line of ``metrics.jsonl`` on.

    Args:
        services: names with commas between, as mlx-lm's ``report_to``; empty: none.
        project: there.
        folder: of the run, whose name the run has there.
        run: what the run is.

    Raises:
        UsageError: mlx-lm knows no such service, or its package is not installed.
    """

    def __init__(self, services: str, project: str | None, folder: Path, run: dict[str, Any]):
        try:
            self._callback = get_reporting_callbacks(services, project, str(folder), run)
        except (ValueError, ImportError) as error:
            raise UsageError(f"`report_to` {services}: {error}") from None

    def report(self, line: dict[str, Any]) -> None:
        """Send one line of ``metrics.jsonl``."""
        if self._callback is None:
            return
        flat = tree_flatten(line)  # what a report has inside, a mixture's shares, by dotted name
        named = {NAMES.get(name, name): value for name, value in flat}
        if "val_loss" in line:
            self._callback.on_val_loss_report(named)
        else:
            self._callback.on_train_loss_report(named)
