"""Which worked examples stand before a query: random ones of a seed, or the most like; never its own picture."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice

from mm1_mlx.errors import DataError, PictureError
from mm1_mlx.evaluation.settings import Select
from mm1_mlx.evaluation.tasks.task import Item
from mm1_mlx.inputs.picture import Source, find_picture, open_picture

MOST_LISTED = 10  # answers, in a balance
KEPT = 256  # examples whose picture files stay in memory


class Support:
    """The worked examples of one task, and the rule that chooses from them.

    The first 4 of 8 examples are those that a choice of 4 gives, so that numbers of shots can be compared.

    Args:
        items: the examples to choose from; those without an answer are ignored.
        select: "fixed" takes the same ones for every query of a seed; "random" draws new ones for each query; "rices"
            takes those whose pictures are the most like the query's, the most like one last.
        alike: for "rices": yields the numbers of ``items`` in the order of their likeness to a picture.
        skip_damaged: ignore pictures that cannot be opened, in place of an error.
    """

    def __init__(
        self,
        items: Sequence[Item],
        select: Select,
        alike: Callable[[Source], Iterator[int]] | None = None,
        *,
        skip_damaged: bool = False,
    ):
        self.items, self._select, self._alike = items, select, alike
        self._skip_damaged = skip_damaged
        find = decode_picture if skip_damaged else measure_picture
        self._found = lru_cache(maxsize=KEPT)(lambda index: find(self.items[index]))

    def choose(self, query: Item, num: int, seed: int) -> list[Item]:
        """Choose the examples for a query, in the order in which they stand before it.

        Raises:
            DataError: there are too few that have an answer and another picture than the query.
            PictureError: one of them has a damaged picture.
        """
        chosen = list(islice(self._iterate_usable(query, seed), num))
        if len(chosen) < num:
            raise DataError(
                f"`shots` {num} before query {query.id}, but the support set of {len(self.items)} has only "
                f"{len(chosen)} examples for it (with an answer, and another picture); ask for fewer."
            )
        return chosen[::-1] if self._select == "rices" else chosen

    def _iterate_usable(self, query: Item, seed: int) -> Iterator[Item]:
        own = None if query.image is None else find_picture(query.image).sha256
        for index in self._iterate_order(query, seed):
            if not self.items[index].example:
                continue
            try:
                item = self._found(index)
            except PictureError:
                if not self._skip_damaged:
                    raise
                continue
            if item.image is None or find_picture(item.image).sha256 != own:
                yield item

    def _iterate_order(self, query: Item, seed: int) -> Iterator[int]:
        if self._select == "rices" and self._alike is not None and query.image is not None:
            return self._alike(query.image)
        return shuffle(len(self.items), f"{seed}" if self._select == "fixed" else f"{seed} {query.id}")


def measure_picture(item: Item) -> Item:
    """Return an item with its picture file read and its size measured, so that the file is not read again.

    Raises:
        PictureError: there is no such picture.
    """
    return item if item.image is None else replace(item, image=find_picture(item.image))


def decode_picture(item: Item) -> Item:
    """Return an item as ``measure_picture`` does, after decoding its picture once to find damage.

    Raises:
        PictureError: there is no picture, or it is damaged.
    """
    item = measure_picture(item)
    if item.image is not None:
        open_picture(item.image)
    return item


def shuffle(number: int, seed: str) -> Iterator[int]:
    """Yield 0 to ``number`` - 1 in an order that ``seed`` decides, without making the whole list first."""
    rng, moved = random.Random(seed), {}
    for last in range(number - 1, -1, -1):
        at = rng.randint(0, last)
        yield moved.get(at, at)
        moved[at] = moved.pop(last, last)


def share_out(answers: Sequence[str]) -> dict[str, float]:
    """Return the share of each answer, the commonest first; those after the first few are summed as "others"."""
    counts = Counter(answers)
    listed = sorted(counts, key=lambda answer: (-counts[answer], answer))
    shares = {answer: counts[answer] / len(answers) for answer in listed[:MOST_LISTED]}
    rest = sum(counts[answer] for answer in listed[MOST_LISTED:])
    return shares | ({"others": rest / len(answers)} if rest else {})
