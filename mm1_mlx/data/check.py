"""Read all rows of a data set as training would, and tell what is in them and which cannot be used."""

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

NAMED = 50  # rows of a split that cannot be used and are named
LENGTHS = 12  # bars of a histogram, or so
BAR = 40  # letters of the longest
EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    name: str  # "data/train.jsonl, line 3"
    reason: str  # its field, what was found there, and what to do


@dataclass
class SplitReport:
    """What a split holds; forms, sizes and lengths are of the rows that can be read, too long ones included."""

    name: str
    num_rows: int
    forms: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of pictures: width and height in pixels
    lengths: list[int] = field(default_factory=list)  # of rows, in tokens
    bad: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True)
class DataReport:
    """What a data set holds."""

    splits: dict[Split, SplitReport]

    @property
    def bad(self) -> list[BadRow]:
        """The rows that cannot be used, of all splits."""
        return [row for split in self.splits.values() for row in split.bad]


@dataclass(frozen=True)
class _Row:
    """What is known of one row."""

    form: str | None = None  # None: it cannot be read
    sizes: tuple[tuple[int, int], ...] = ()
    length: int = 0
    bad: BadRow | None = None


class _Opened:
    """Opens each picture once, whichever of its rows comes first."""

    def __init__(self) -> None:
        self._sound: set[str] = set()  # digests
        self._locks: dict[str, threading.Lock] = {}

    def require_sound(self, picture: PreparedPicture) -> None:
        """Decode, resize and cut it.

        Raises:
            PictureError: it is damaged, or too long and thin.
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
    """Parse, tokenise and count every row; open, resize and cut every picture, one that comes again only once.

    Few rows and pictures are in memory at once, whatever the size of the data.

    Args:
        records: the splits, from ``open_data``.
        processor: of the model that is to be trained.
        max_seq_length: in tokens; a longer row is bad. None: only the model's context counts.
        tick: called after each row.
    """
    workers = min(os.cpu_count() or 1, 8)
    opened = _Opened()
    found: dict[Split, SplitReport] = {}
    with ThreadPoolExecutor(workers) as pool:
        for split, rows in records.items():
            report = found[split] = SplitReport(rows.name, len(rows))

            def check(index: int, rows: NamedRecords = rows) -> _Row:
                return _check_row(rows, index, processor, max_seq_length, opened)

            for row in _in_order(pool, check, range(len(rows)), ahead=4 * workers):
                if row.form is not None:
                    report.forms[row.form] += 1
                    report.sizes += row.sizes
                    report.lengths.append(row.length)
                if row.bad is not None:
                    report.bad.append(row.bad)
                tick()
    return DataReport(found)


def render(report: DataReport) -> str:
    """Return the report as a terminal shows it."""
    return "\n\n".join("\n".join(_lines(split)) for split in report.splits.values())


def _check_row(
    records: NamedRecords, index: int, processor: Processor, max_seq_length: int | None, opened: _Opened
) -> _Row:
    name = records.row_name(index)

    def bad(reason: str) -> BadRow:
        return BadRow(name, " ".join(reason.removeprefix(f"{name}: ").split()))

    try:
        record = records[index]
        total, images = len(record.images), []
        for number, image in enumerate(record.images, 1):
            with _numbered(number, total):
                alpha = processor.config.image_config.alpha
                images.append(find_picture(image, alpha=alpha, max_pixels=processor.max_pixels))
        example = make_example(replace(record, images=tuple(images)), processor)
        for number, picture in enumerate(example.pictures, 1):
            with _numbered(number, total):
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
def _numbered(number: int, total: int) -> Iterator[None]:
    """Have what is said of a picture tell which of the row's it is."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"picture {number} of {total}: {error}") from None


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[int], _Row], numbers: Iterable[int], *, ahead: int
) -> Iterator[_Row]:
    """Yield what ``function`` makes of each number, in their order; no more than ``ahead`` are begun before their turn."""
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
    """Return three of sorted values."""
    return values[0], values[len(values) // 2], values[-1]


def histogram(lengths: list[int]) -> Iterator[str]:
    """Yield lines with a bar for each range of lengths, a power of two wide; the longest 2 % share the last."""
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
