"""Scores against the number of shots, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mm1_mlx.evaluation.results import Result
from mm1_mlx.seeing.chart import Chart
from mm1_mlx.seeing.draw import color_of


def draw_scores(results: Sequence[Result]) -> Image.Image:
    """Draw a line for each task over the numbers of shots, with the interval of each score."""
    shots = sorted({result["shots"] for result in results})
    places = {number: 0.5 + at for at, number in enumerate(shots)}
    chart = Chart(
        "Score",
        "shots",
        last=float(len(shots)),
        highest=max(result["interval"][1] for result in results),
        labels=[(place, str(number)) for number, place in places.items()],
    )
    names = list(dict.fromkeys(result["task"] for result in results))
    colors = {name: color_of(at) for at, name in enumerate(names)}
    for name, color in colors.items():
        own = sorted((r for r in results if r["task"] == name), key=lambda result: result["shots"])
        chart.line([(places[result["shots"]], result["score"]) for result in own], color)
        for result in own:
            low, high = result["interval"]
            chart.bar(places[result["shots"]], low, high, color)
            chart.point((places[result["shots"]], result["score"]), color)
    chart.key(list(colors.items()))
    return chart.image
