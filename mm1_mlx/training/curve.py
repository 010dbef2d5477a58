"""A run's losses as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mm1_mlx.seeing.draw import COLORS, FAINT, INK, PAPER, text, write_png
from mm1_mlx.training.run_folder import RunFolder

WIDTH, HEIGHT = 960, 540  # pixels
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 56, 56  # margins, pixels
Point = tuple[int, float]  # update, loss
STEPS = (1, 2, 5)  # that ticks may have, times a power of ten


def draw_curve(folder: Path) -> Path | None:
    """Draw ``loss.png`` into a run's folder: training as a line, validation as points. None: nothing to draw yet."""
    rows = RunFolder(folder).lines()
    trained, validated = (_points(rows, name) for name in ("loss", "val_loss"))
    if not trained:
        return None
    write_png(curve(trained, validated), folder / "loss.png")
    return folder / "loss.png"


def _points(rows: list[dict[str, Any]], name: str) -> list[Point]:
    return [(row["update"], float(row[name])) for row in rows if name in row]


def curve(trained: list[Point], validated: list[Point]) -> Image.Image:
    """Draw the losses by update, nats a learned token, from 0 up."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    last = max(update for update, _ in trained + validated)
    highest = max(loss for _, loss in trained + validated)

    def place(update: float | int, loss: float | int) -> tuple[float, float]:
        x = LEFT + update / max(last, 1) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - loss / max(highest, 1e-9) * (HEIGHT - TOP - BOTTOM)

    for tick in ticks(highest):
        y = round(place(0, tick)[1])
        draw.line((LEFT, y, WIDTH - RIGHT, y), fill="#e4e4e8")
        label = text(f"{tick:g}", color=FAINT)
        image.paste(label, (LEFT - label.width - 10, y - label.height // 2))
    for tick in ticks(float(last)):
        x = round(place(tick, 0)[0])
        label = text(f"{tick:g}", color=FAINT)
        image.paste(label, (min(x - label.width // 2, WIDTH - label.width), HEIGHT - BOTTOM + 8))
    draw.line([place(*point) for point in trained], fill=COLORS[1], width=3, joint="curve")
    for point in validated:
        x, y = place(*point)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=COLORS[0], outline=PAPER)
    title = text("Loss, nats a learned token", size=20, color=INK)
    image.paste(title, (LEFT, 14))
    keys = [("training", COLORS[1]), ("validation", COLORS[0])][: 2 if validated else 1]
    x = WIDTH - RIGHT
    for words, color in reversed(keys):
        label = text(words, color=color)
        x -= label.width + 20
        image.paste(label, (x, 18))
    label = text("update", color=FAINT)
    image.paste(label, ((LEFT + WIDTH - RIGHT - label.width) // 2, HEIGHT - label.height - 6))
    return image


def ticks(highest: float) -> list[float]:
    """Return round numbers from 0 to ``highest``, about five of them."""
    if highest <= 0:
        return [0.0]
    power = 10 ** math.floor(math.log10(highest / 5))
    step = next(power * step for step in (*STEPS, 10) if highest / (power * step) <= 6)
    return [float(number * step) for number in range(int(highest / step) + 1)]
