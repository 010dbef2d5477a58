"""docs/architecture.md follows the code: its files exist, its rooms are those that the import test knows."""

import re
from pathlib import Path

from test_imports import ROOMS

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "architecture.md").read_text(encoding="utf-8")


def test_every_file_that_it_names_exists():
    missing = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not (DOCS / link).exists()]
    assert not missing


def test_every_walk_has_at_most_twelve_steps():
    walks = [section for section in TEXT.split("\n## ") if "\n1. " in section]
    assert len(walks) == 4
    assert all(max(map(int, re.findall(r"^(\d+)\. ", walk, re.MULTILINE))) <= 12 for walk in walks)


def test_its_rooms_stand_in_the_order_of_imports():
    named = re.findall(r"^\| `(\w+)/` \|", TEXT, re.MULTILINE)
    assert named == [room for room in ROOMS if (DOCS.parent / "mm1_mlx" / room).is_dir()]
