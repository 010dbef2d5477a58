"""Read several sources at fixed shares: MM1's mix of captions, interleaved documents and text.

The rows of a run are one endless sequence of slots, and each update takes the next ones. Slots come in shuffled blocks
that hold every source at its share, exactly or within 0.1 percentage points. A source's n-th slot is its n-th draw. So only the seed and the number of an
update decide its rows, whatever this or another process read before.

Source: MM1, "Pre-training Data Ablation" (45 % captions, 45 % interleaved, 10 % text); MM1.5 (arXiv:2409.20566).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

from mm1_mlx.data.row_forms import Record
from mm1_mlx.data.sampler import order
from mm1_mlx.data.settings import DataSettings
from mm1_mlx.data.sources import Generator, Source, SourceSettings, open_source
from mm1_mlx.errors import ConfigError, DataError

MIXES = {
    "mm1": {"captions": 0.45, "interleaved": 0.45, "text": 0.10},
    "mm1.5": {"captions": 0.50, "interleaved": 0.10, "text": 0.40},
}
LARGEST_BLOCK = 1000  # slots; shares in a block are exact, or at most 0.1 % off
FORGIVEN = 10  # damaged rows of a source are allowed, before their share counts
MAX_REPORTED = 5  # damaged rows of a source
BLOCK_ORDER = (
    1 << 20
)  # tells a block's order from an epoch's, whose key has the number of a source in its place


class Slot(NamedTuple):
    """A place in the sequence of rows: a source, and the number of the draw from it."""

    source: str
    draw: int


@runtime_checkable
class Counted(Protocol):
    """A prepared row; its length is its number of tokens."""

    @property
    def pictures(self) -> Sequence[Any]: ...

    def __len__(self) -> int: ...


@dataclass
class Counts:
    """Usable rows of a source with their tokens and pictures, and damaged rows, since the counts were reset."""

    rows: int = 0
    tokens: int = 0
    pictures: int = 0
    damaged: int = 0


class Mixture:
    """Several sources read at fixed shares; it serves as rows, sampler and counter of ``Batches``.

    Args:
        sources: the sources by name.
        settings: settings of each source.
        weights: share of each source; the shares sum to 1.
        data: settings of the run.
        rank: number of this process.
        size: number of processes.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        settings: Mapping[str, SourceSettings],
        weights: Mapping[str, float],
        data: DataSettings,
        rank: int = 0,
        size: int = 1,
    ):
        self.sources, self.weights = sources, weights
        self.count_anew()
        self._reported = dict.fromkeys(sources, 0)  # damaged rows
        self._settings, self._data, self._rank, self._size = settings, data, rank, size
        self._shares = dict(zip(weights, _shares(list(weights.values())), strict=True))
        self._arranged = lru_cache(maxsize=8)(self._arrange)

    def identity(self) -> dict[str, Any]:
        """Return what is read, as ``identify_sources`` does."""
        return identify_sources(self._settings, self.weights)

    def count_anew(self) -> None:
        """Reset the counts of what this process reads."""
        self.counts = {name: Counts() for name in self.sources}

    def _arrange(self, number: int) -> list[Slot]:
        """Return the slots of a block in their order."""
        next_draw = {name: number * share for name, share in self._shares.items()}
        names = [name for name, share in self._shares.items() for _ in range(share)]
        slots = []
        for place in order(len(names), self._data.seed, number, BLOCK_ORDER):
            name = names[place]
            slots.append(Slot(name, next_draw[name]))
            next_draw[name] += 1
        return slots

    def __getitem__(self, slot: Slot) -> Record:
        return self.sources[slot.source].draw(slot.draw)

    def rows_of(self, update: int) -> list[Slot]:
        """Return this process's slots of one update, counted from 0."""
        rows = self._data.rows_per_update
        return [self.slot(update * rows + place) for place in range(self._rank, rows, self._size)]

    def slot(self, number: int) -> Slot:
        """Return the slot at a place of the endless sequence."""
        block, place = divmod(number, sum(self._shares.values()))
        return self._arranged(block)[place]

    def count(self, slot: Slot, row: Counted) -> None:
        """Count a row that is used in an update."""
        counts = self.counts[slot.source]
        counts.rows += 1
        counts.tokens += len(row)
        counts.pictures += len(row.pictures)

    def leave_out(self, slot: Slot, error: DataError) -> None:
        """Count a damaged row, and report the first few of them.

        Raises:
            DataError: the source has too many of them.
        """
        name, counts = slot.source, self.counts[slot.source]
        counts.damaged += 1
        if self._reported[name] < MAX_REPORTED:
            self._reported[name] += 1
            print(f"mm1: {name}: left out: {error}", file=sys.stderr)
        read, most = counts.rows + counts.damaged, self._settings[name].max_bad_rows
        if counts.damaged > max(FORGIVEN, most * read):
            raise DataError(
                f"{name}: {counts.damaged:,} of {read:,} rows cannot be used, more than max_bad_rows {most:g}; the last "
                f"one: {error} Mend the source, or raise its max_bad_rows."
            )

    def epochs(self, num_updates: int) -> dict[str, float]:
        """Return how often ``num_updates`` updates read each source through; sources without an end are left out."""
        slots = num_updates * self._data.rows_per_update
        return {
            name: round(slots * weight / source.num_rows, 4)
            for (name, source), weight in zip(self.sources.items(), self.weights.values(), strict=True)
            if source.num_rows
        }


def open_mixture(
    sources: Mapping[str, SourceSettings],
    data: DataSettings,
    *,
    mix: str = "mm1",
    generators: Mapping[str, Generator] | None = None,
    rank: int = 0,
    size: int = 1,
    say: Callable[[str], Any] = lambda line: None,
) -> Mixture:
    """Open all sources of a mixture.

    Args:
        sources: settings of each source, by name.
        data: settings of the run.
        mix: key of ``MIXES`` whose shares are used where sources give no weight.
        generators: the generators that sources can name.
        rank: number of this process.
        size: number of processes.
        say: called with a line about each shard that is left out.

    Raises:
        ConfigError: the weights or the mix are invalid.
        DataError: a source cannot be opened; the message names it.
    """
    weights = weights_of(sources, mix)
    opened = {}
    for number, (name, settings) in enumerate(sources.items()):
        try:
            opened[name] = open_source(
                settings,
                seed=data.seed,
                number=number,
                generators=generators or {},
                say=lambda line, name=name: say(f"{name}: {line}"),
            )
        except DataError as error:
            raise DataError(f"source {name}: {error}") from None
    return Mixture(opened, sources, weights, data, rank, size)


def weights_of(sources: Mapping[str, SourceSettings], mix: str) -> dict[str, float]:
    """Return each source's share of the rows; a lone source without a weight has all of them.

    Raises:
        ConfigError: there are no sources, the mix is unknown or has other names, only some sources have a weight, or the
            weights do not sum to 1.
    """
    given = {name: source.weight for name, source in sources.items()}
    if not given:
        raise ConfigError("a mixture needs at least one source; name them under `sources`.")
    if mix not in MIXES:
        raise ConfigError(
            f"there is no mix {mix!r}; there are {', '.join(MIXES)}. Or give every source a weight, and no mix."
        )
    weights = {name: weight for name, weight in given.items() if weight is not None}
    without = [name for name in given if name not in weights]
    if not without:
        total = sum(weights.values())
        if abs(total - 1) > 1e-6:
            terms = " + ".join(f"{name} {weight:g}" for name, weight in weights.items())
            raise ConfigError(f"the weights of the sources sum to {total:g}, expected 1: {terms}.")
        return weights
    if len(without) < len(given):
        raise ConfigError(
            f"{', '.join(without)} has no weight, but other sources have; give all of them one, or none."
        )
    if len(given) == 1:
        return dict.fromkeys(given, 1.0)
    shares = MIXES[mix]
    if set(given) != set(shares):
        raise ConfigError(
            f"the sources are {', '.join(given)}, but the mix {mix} is of {', '.join(shares)}; name them so, or give "
            "every source a weight."
        )
    return {name: shares[name] for name in given}


def identify_sources(sources: Mapping[str, SourceSettings], weights: Mapping[str, float]) -> dict[str, Any]:
    """Return the identity and share of each source; a run that read others cannot be resumed."""
    return {"weights": weights, "sources": {name: source.identity() for name, source in sources.items()}}


def _shares(weights: list[float]) -> list[int]:
    """Return the slots of a block for each weight, in the smallest block that holds exact shares, if there is one."""
    for size in range(1, LARGEST_BLOCK + 1):
        shares = [round(weight * size) for weight in weights]
        if all(
            abs(share - weight * size) < 1e-6 * size for share, weight in zip(shares, weights, strict=True)
        ):
            break
    else:
        shares = [int(weight * LARGEST_BLOCK) for weight in weights]
        rest = [weight * LARGEST_BLOCK - share for weight, share in zip(weights, shares, strict=True)]
        for place in sorted(range(len(rest)), key=lambda place: -rest[place])[: LARGEST_BLOCK - sum(shares)]:
            shares[place] += 1
    if not all(shares):
        raise ConfigError(f"a weight is {min(weights):g}, expected at least 1 of {LARGEST_BLOCK:,} rows.")
    return shares
