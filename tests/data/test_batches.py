"""Rows are made ready ahead of their update, in threads that do not stay."""

import threading
import time

import pytest

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.row_forms import Record, Turn
from mm1_mlx.data.settings import DataSettings
from mm1_mlx.errors import DataError

SETTINGS = DataSettings(batch_size=2, max_seq_length=256)
ROWS = [
    Record(f"row {number}", (Turn("user", "?"), Turn("assistant", "x" * (number + 1))), None, ())
    for number in range(10)
]
BAD = Record("bad row", (Turn("user", "<image>?"), Turn("assistant", "x")), None, (b"no picture",))


def names(groups):
    return [[name for packed in group for name in packed.names] for group in groups]


def test_the_next_rows_are_made_ready_during_an_update(mm1_tiny):
    class Watched(list):
        asked = []

        def __getitem__(self, number):
            self.asked.append(number)
            return super().__getitem__(number)

    rows = Watched(ROWS)
    updates = Batches(rows, mm1_tiny[1], SETTINGS).updates(0, 5)
    next(updates)
    deadline = time.time() + 5
    while len(rows.asked) < 4 and time.time() < deadline:
        time.sleep(0.01)
    assert len(rows.asked) == 4  # those of this update and of the next, no more
    updates.close()


def test_an_update_is_the_same_whenever_reading_begins(mm1_tiny):
    batches = Batches(ROWS, mm1_tiny[1], SETTINGS)
    whole = names(batches.updates(0, 7))
    assert len(whole) == 7 and names(batches.updates(4, 7)) == whole[4:]
    assert names(batches.updates(3, 3)) == []


def test_validation_reads_the_first_rows_once(mm1_tiny):
    found = names(Batches(ROWS, mm1_tiny[1], SETTINGS).read_in_order(5))
    assert [len(group) for group in found] == [2, 2, 1]
    assert sorted(name for group in found for name in group) == [f"row {number}" for number in range(5)]


@pytest.mark.parametrize("rows", [ROWS, [*ROWS[:3], BAD]], ids=["left early", "bad row"])
def test_threads_end_with_the_updates(mm1_tiny, rows):
    before = threading.active_count()
    updates = Batches(rows, mm1_tiny[1], DataSettings(batch_size=4)).updates(0, 50)
    if rows is ROWS:
        next(updates)
        assert threading.active_count() > before
        updates.close()
    else:
        with pytest.raises(DataError, match=r"bad row: .*`skip_bad` trains without them"):
            next(updates)
    assert threading.active_count() == before
