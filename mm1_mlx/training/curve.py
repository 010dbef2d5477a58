"""A run's losses as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from mm1_mlx.seeing.chart import Chart
from mm1_mlx.seeing.draw import COLORS, write_png
from mm1_mlx.training.run_folder import RunFolder

Point = tuple[int, float]  # update, loss


def draw_curve(folder: Path) -> Path | None:
    """Draw ``loss.png`` into a run's folder, and return its path, or None where there is nothing to draw yet.

    The training loss is a line, the validation loss are points.
    """
    rows = RunFolder(folder).lines()
    trained, validated = (_points(rows, name) for name in ("loss", "val_loss"))
    if not trained:
        return None
    drawing = RunFolder(folder).drawing
    write_png(draw_losses(trained, validated), drawing)
    return drawing


def _points(rows: list[dict[str, Any]], name: str) -> list[Point]:
    return [(row["update"], float(row[name])) for row in rows if name in row]


def draw_losses(trained: list[Point], validated: list[Point]) -> Image.Image:
    """Draw the losses, in nats for each learned token, over the updates; the axis begins at 0."""
    points = trained + validated
    chart = Chart(
        "Loss, nats a learned token",
        "update",
        last=max(float(update) for update, _ in points),
        highest=max(loss for _, loss in points),
    )
    chart.line(trained, COLORS[1])
    for point in validated:
        chart.point(point, COLORS[0])
    chart.key([("training", COLORS[1]), ("validation", COLORS[0])][: 2 if validated else 1])
    return chart.image
