"""Reports of metrics to the services that mlx-lm supports, such as wandb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from mm1_mlx.errors import UsageError
from mm1_mlx.model.mlx_lm_parts import get_reporting_callbacks

MAKE_CALLBACKS: Callable[..., Any] = (
    get_reporting_callbacks  # mlx-lm annotates ``config`` as text, but it is a dict
)
NAMES = {"update": "iteration", "loss": "train_loss"}  # mlx-lm's names for our metrics


class Reporter:
    """Sends every line of ``metrics.jsonl`` to other services.

    Args:
        services: names separated by commas, as mlx-lm's ``report_to`` takes them; an empty text means none.
        project: name of the project at the services.
        folder: the run's folder, whose name is the run's name at the services.
        run: what the run is, as plain values.

    Raises:
        UsageError: mlx-lm does not support such a service, or its package is not installed.
    """

    def __init__(self, services: str, project: str | None, folder: Path, run: dict[str, Any]):
        try:
            self._callback = MAKE_CALLBACKS(services, project, str(folder), run)
        except (ValueError, ImportError) as error:
            raise UsageError(f"`report_to` {services}: {error}") from None

    def report(self, line: dict[str, Any]) -> None:
        """Send one line of ``metrics.jsonl``."""
        if self._callback is None:
            return
        flat = tree_flatten(line)  # nested values, such as a mixture's shares, get dotted names
        named = {NAMES.get(name, name): value for name, value in flat}
        if "val_loss" in line:
            self._callback.on_val_loss_report(named)
        else:
            self._callback.on_train_loss_report(named)
