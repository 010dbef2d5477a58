"""What others report, from ``published.json``, each row with a mark that says how sure its numbers are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mm1_mlx.evaluation.tasks.places import read_json

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class PublishedRow:
    """The scores of one model with one number of shots."""

    model: str
    shots: int
    mark: str  # "X", "N" or "MEMORY", as ``Published.marks`` explains them
    scores: dict[str, float]  # by task


@dataclass(frozen=True)
class Published:
    """All published rows, and what their marks mean."""

    about: str
    marks: dict[str, str]
    rows: tuple[PublishedRow, ...]


def read_published() -> Published:
    """Read the scores that others report for their models."""
    values = read_json(FILE)
    return Published(values["about"], values["marks"], tuple(PublishedRow(**row) for row in values["rows"]))
