"""The vocabulary of mm1-tiny: a tokenizer learned from every corpus of the tiny world.

python -m mm1_mlx.tiny.vocabulary runs/mm1-tiny/tokenizer
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.corpora import CORPORA
from mm1_mlx.tiny.stock import pictogram_classes
from mm1_mlx.tiny.tokenizer import write_tokenizer

VOCAB_SIZE = 2048
SHARES = {
    "all-captions": 6000,
    "all-documents": 1500,
    "all-text": 6000,
    "all-conversations": 4000,
}  # number of rows of each
REPEATED = 30  # how often the name of each training pictogram is added, so that its words have tokens
SEED = 0


def yield_world_texts() -> Iterator[str]:
    """Yield the texts of all corpora, without their pictures."""
    for corpus, rows in SHARES.items():
        for index in range(rows):
            yield from yield_texts(CORPORA[corpus](index, SEED))
    for pictogram in pictogram_classes("named"):
        yield from [f"a {pictogram.name}"] * REPEATED


def yield_texts(row: dict) -> Iterator[str]:
    """Yield the texts of a row of any form."""
    if "messages" in row:
        yield from (_read_content(message["content"]) for message in row["messages"])
    yield from (text for text in row.get("texts", ()) if text)
    yield from (row[key] for key in ("caption", "text") if key in row)


def _read_content(content: str | list) -> str:
    if isinstance(content, str):
        return content.replace(IMAGE, "")
    return "".join(part["text"] for part in content if part["type"] == "text")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, yield_world_texts(), vocab_size=VOCAB_SIZE)


if __name__ == "__main__":
    main()
