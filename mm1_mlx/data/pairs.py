"""Prepare pictures and captions as pairs for contrastive learning, without visual tokens and packing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Integer

from mm1_mlx.data.batches import RowBatches
from mm1_mlx.data.mixture import Mixture
from mm1_mlx.data.packing import PAD_TO
from mm1_mlx.data.records import Records
from mm1_mlx.data.row_forms import Record
from mm1_mlx.data.settings import DataSettings
from mm1_mlx.errors import DataError, MM1Error
from mm1_mlx.inputs.inputs import PreparedPicture
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import IMAGE


@dataclass(frozen=True)
class Pair:
    """A picture and its caption, tokenised."""

    name: str  # name of the row, for messages
    ids: tuple[int, ...]  # tokens of the caption, with the one that ends it
    picture: PreparedPicture  # has one view

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pictures(self) -> tuple[PreparedPicture]:
        return (self.picture,)


@dataclass(frozen=True)
class Pairs:
    """Some pairs that are computed together, with their captions padded to one length."""

    names: tuple[str, ...]
    ids: Integer[mx.array, "N L"]  # padded at the end
    lengths: Integer[mx.array, "N"]  # tokens of each caption
    pictures: tuple[PreparedPicture, ...]
    num_tokens: int

    @property
    def num_learned(self) -> int:
        """The number of pairs, because the loss is a sum over them."""
        return len(self.names)

    @property
    def num_places(self) -> int:
        return self.ids.size

    @property
    def num_pictures(self) -> int:
        return len(self.pictures)


def make_pair(record: Record, processor: Processor, *, max_length: int) -> Pair:
    """Tokenise a caption and find its picture, which is not decoded.

    Args:
        record: a row with image and caption.
        processor: the model's processor; it must make one view of each picture.
        max_length: tokens of the caption; a longer one is cut before the token that ends it.

    Raises:
        DataError: the row is of another form, or cannot be read.
    """
    if record.form != "caption" or record.document is None:
        raise DataError(
            f"{record.name}: it is a row of the form {record.form}, but a contrastive stage takes image and caption."
        )
    try:
        ids = processor.prompt_ids(record.document.removeprefix(IMAGE).strip(), 0, template="plain")
        inputs = processor.assemble([processor.config.image_token_id], record.images)
    except MM1Error as error:
        raise DataError(f"{record.name}: {error}") from None
    end = processor.tokenizer.eos_token_id
    ids = ids[: max_length - 1] if end is not None else ids[:max_length]
    if end is not None and ids[-1] != end:
        ids = [*ids, end]
    return Pair(record.name, tuple(ids), inputs.pictures[0])


def chunks(pairs: Sequence[Pair], size: int) -> Iterator[Pairs]:
    """Yield pairs in order, at most ``size`` together."""
    for start in range(0, len(pairs), size):
        yield _join_pairs(pairs[start : start + size])


def _join_pairs(pairs: Sequence[Pair]) -> Pairs:
    """Put pairs into padded arrays."""
    lengths = [len(pair.ids) for pair in pairs]
    ids = np.zeros((len(pairs), -max(lengths) // PAD_TO * -PAD_TO), np.int32)
    for row, pair in zip(ids, pairs, strict=True):
        row[: len(pair.ids)] = pair.ids
    return Pairs(
        tuple(pair.name for pair in pairs),
        mx.array(ids),
        mx.array(lengths),
        tuple(pair.picture for pair in pairs),
        sum(lengths),
    )


class PairBatches(RowBatches[Pair, Pairs]):
    """The pairs of every update, in chunks; it differs from other batches only in that.

    Args:
        rows: rows of image and caption.
        processor: the model's processor.
        settings: settings of the data.
        max_length: limit for the tokens of a caption.
        chunk_size: pairs computed together.
    """

    def __init__(
        self,
        rows: Records | Mixture,
        processor: Processor,
        settings: DataSettings,
        *,
        max_length: int,
        chunk_size: int,
    ):
        super().__init__(rows, settings)
        self._processor, self._max_length, self._chunk_size = processor, max_length, chunk_size

    def item(self, number: Any) -> Pair:
        """Tokenise a row's caption and find its picture."""
        return make_pair(self.rows[number], self._processor, max_length=self._max_length)

    def open_pictures(self, item: Pair) -> Pair:
        """Return the same pair with its picture open."""
        try:
            return replace(item, picture=item.picture.open_views())
        except Exception as error:
            raise DataError(f"{item.name}: {error}") from None

    def combine(self, items: Sequence[Pair]) -> list[Pairs]:
        """Put pairs into chunks."""
        return list(chunks(items, self._chunk_size))
