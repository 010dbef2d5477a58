"""Read all rows of a data set as training would, and report what is in them and which cannot be used."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mm1_mlx.data.examples import make_example
from mm1_mlx.data.records import NamedRecords, Split
from mm1_mlx.errors import MM1Error, PictureError
from mm1_mlx.inputs.inputs import PreparedPicture
from mm1_mlx.inputs.picture import find_picture
from mm1_mlx.inputs.processor import Processor

NAMED = 50  # at most so many unusable rows of a split are named
LENGTHS = 12  # bars of a histogram, roughly
BAR = 40  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, with the reason."""

    name: str  # "data/train.jsonl, line 3"
    reason: str  # its field, what was found there, and what to do


@dataclass
class SplitReport:
    """The contents of a split; forms, sizes and lengths are those of all readable rows, even if they are too long."""

    name: str
    num_rows: int
    forms: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width and height of each picture in pixels
    lengths: list[int] = field(default_factory=list)  # tokens of each row
    bad: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True)
class DataReport:
    """The contents of a data set."""

    splits: dict[Split, SplitReport]

    @property
    def bad(self) -> list[BadRow]:
        """The rows of all splits that cannot be used."""
        return [row for split in self.splits.values() for row in split.bad]


@dataclass(frozen=True)
class _Row:
    """What checking one row found."""

    form: str | None = None  # None: it cannot be read
    sizes: tuple[tuple[int, int], ...] = ()
    length: int = 0
    bad: BadRow | None = None


class _CheckedPictures:
    """Checks each picture once, whichever of its rows comes first."""

    def __init__(self) -> None:
        self._sound: set[str] = set()  # digests
        self._locks: dict[str, threading.Lock] = {}

    def require_sound(self, picture: PreparedPicture) -> None:
        """Decode, resize and cut a picture, unless that was done before.

        Raises:
            PictureError: the picture is damaged, or too long and thin.
        """
        with self._locks.setdefault(picture.digest, threading.Lock()):
            if picture.digest not in self._sound:
                picture.views()
                self._sound.add(picture.digest)


def check_data(
    records: Mapping[Split, NamedRecords],
    processor: Processor,
    *,
    max_seq_length: int | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> DataReport:
    """Parse, tokenise and count every row; open, resize and cut every picture, but none twice.

    Few rows and pictures are in memory at once, whatever the size of the data.

    Args:
        records: the splits, from ``open_data``.
        processor: the processor of the model that is to be trained.
        max_seq_length: in tokens; a longer row is bad. None allows as many as the model's context has.
        tick: called after each row.
    """
    workers = min(os.cpu_count() or 1, 8)
    opened = _CheckedPictures()
    found: dict[Split, SplitReport] = {}
    with ThreadPoolExecutor(workers) as pool:
        for split, rows in records.items():
            report = found[split] = SplitReport(rows.name, len(rows))

            def check(index: int, rows: NamedRecords = rows) -> _Row:
                return _check_row(rows, index, processor, max_seq_length, opened)

            for row in _run_in_order(pool, check, range(len(rows)), ahead=4 * workers):
                if row.form is not None:
                    report.forms[row.form] += 1
                    report.sizes += row.sizes
                    report.lengths.append(row.length)
                if row.bad is not None:
                    report.bad.append(row.bad)
                tick()
    return DataReport(found)


def render(report: DataReport) -> str:
    """Return the report as text for a terminal."""
    return "\n\n".join("\n".join(_lines(split)) for split in report.splits.values())


def _check_row(
    records: NamedRecords,
    index: int,
    processor: Processor,
    max_seq_length: int | None,
    opened: _CheckedPictures,
) -> _Row:
    name = records.row_name(index)

    def bad(reason: str) -> BadRow:
        return BadRow(name, " ".join(reason.removeprefix(f"{name}: ").split()))

    try:
        record = records[index]
        total, images = len(record.images), []
        for number, image in enumerate(record.images, 1):
            with _number_errors(number, total):
                alpha = processor.config.image_config.alpha
                images.append(find_picture(image, alpha=alpha, max_pixels=processor.max_pixels))
        example = make_example(replace(record, images=tuple(images)), processor)
        for number, picture in enumerate(example.pictures, 1):
            with _number_errors(number, total):
                opened.require_sound(picture)
    except MM1Error as error:
        return _Row(bad=bad(str(error)))
    sizes = tuple(picture.picture.size for picture in example.pictures)
    too_long = None
    if max_seq_length is not None and len(example) > max_seq_length:
        visual = sum(len(picture.layout.ids) for picture in example.pictures)
        too_long = bad(
            f"it is {len(example):,} tokens, {visual:,} of them for pictures, more than `max_seq_length` "
            f"{max_seq_length:,}; shorten it, raise the limit, or cut it with `truncate`."
        )
    return _Row(record.form or "other", sizes, len(example), too_long)


@contextmanager
def _number_errors(number: int, total: int) -> Iterator[None]:
    """Add to errors about a picture inside the block which of the row's pictures it is."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"picture {number} of {total}: {error}") from None


def _run_in_order(
    pool: ThreadPoolExecutor, function: Callable[[int], _Row], numbers: Iterable[int], *, ahead: int
) -> Iterator[_Row]:
    """Yield the results of ``function`` in the order of ``numbers``; at most ``ahead`` calls are started before their
    turn.
    """
    begun: deque[Future[_Row]] = deque()
    for number in numbers:
        begun.append(pool.submit(function, number))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _lines(split: SplitReport) -> Iterator[str]:
    yield split.name
    unusable = f", {len(split.bad):,} of them cannot be used" if split.bad else ", all can be used"
    yield f"  rows      {split.num_rows:,}{unusable}"
    if split.forms:
        yield "  forms     " + ", ".join(f"{form} {count:,}" for form, count in split.forms.most_common())
    if split.sizes:
        by_area = sorted(split.sizes, key=lambda size: size[0] * size[1])
        least, middle, most = (f"{w} x {h}" for w, h in _least_middle_most(by_area))
        yield f"  pictures  {len(by_area):,}; pixels: least {least}, median {middle}, most {most}"
    if split.lengths:
        least, middle, most = (f"{length:,}" for length in _least_middle_most(sorted(split.lengths)))
        yield f"  tokens    {sum(split.lengths):,}; of a row: least {least}, median {middle}, most {most}"
        yield from histogram(split.lengths)
    for row in split.bad[:NAMED]:
        yield f"  {row.name}: {row.reason}"
    if len(split.bad) > NAMED:
        yield f"  … and {len(split.bad) - NAMED:,} more that cannot be used"


def _least_middle_most(values: list[Any]) -> tuple[Any, Any, Any]:
    """Return the first, middle and last of sorted values."""
    return values[0], values[len(values) // 2], values[-1]


def histogram(lengths: list[int]) -> Iterator[str]:
    """Yield lines with a bar for each range of lengths, a power of two wide; the longest 2 % share the last range."""
    ordered = sorted(lengths)
    least, common, longest = ordered[0], ordered[(len(ordered) - 1) * 98 // 100], ordered[-1]
    width = 1
    while common - least >= LENGTHS * width:
        width *= 2
    end = (common - 1) // width + 1
    counts = Counter(min((length - 1) // width, end) for length in lengths)
    digits, most = len(f"{max(longest, end * width):,}"), max(counts.values())
    for place in range(min(counts), max(counts) + 1):
        count = counts[place]
        whole, eighths = divmod(max(round(8 * BAR * count / most), min(count, 1)), 8)
        bar = "█" * whole + EIGHTHS[eighths] * (eighths > 0)
        first, last = place * width + 1, longest if place == end else (place + 1) * width
        yield f"    {first:>{digits},} - {last:>{digits},}  {bar:{BAR}}  {count:>{len(f'{most:,}')},}"
