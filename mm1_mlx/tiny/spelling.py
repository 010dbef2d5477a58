"""The tokenizer of the wider tiny world: byte-level BPE learned from the corpora, so it spells any text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from mm1_mlx.data.row_forms import read_row
from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.corpora import corpora
from mm1_mlx.tiny.stock import SHIPPED, Stock
from mm1_mlx.tiny.tokenizer import write_tokenizer

NUM_TOKENS = 1536
SHARES = {"captions": 4000, "documents": 2000, "text": 6000, "conversations": 4000}  # rows to learn from


def read_corpus_texts(stock: Stock = SHIPPED, *, seed: int = 0, share: float = 1.0) -> Iterator[str]:
    """Yield the texts of the corpora, without their pictures.

    Args:
        stock: pictograms and fonts.
        seed: decides the rows.
        share: how many rows, as a share of the usual number.
    """
    makers = corpora(lambda: stock)
    for name, number in SHARES.items():
        for index in range(round(number * share)):
            record = read_row(makers[name](index, seed), name=f"{name} {index}", folder=None)
            yield from chain.from_iterable(
                text.split(IMAGE) for text in ((record.document or ""), *(turn.text for turn in record.turns))
            )


def train_spelling(folder: Path, *, stock: Stock = SHIPPED, seed: int = 0, share: float = 1.0) -> None:
    """Write a tokenizer folder: ``tokenizer.json``, its configuration, chat template and generation settings.

    Args:
        folder: where to write; it must exist.
        stock: pictograms and fonts.
        seed: decides the rows that it learns from.
        share: how many rows, as a share of the usual number.
    """
    write_tokenizer(folder, read_corpus_texts(stock, seed=seed, share=share), vocab_size=NUM_TOKENS)
