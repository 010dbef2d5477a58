"""``--check-data``: what is in a data set, and which rows cannot be used."""

import base64
import json
import re
import shutil
import threading
import types
import weakref
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mm1_mlx.data import check as data_check
from mm1_mlx.data.check import (
    BAR,
    LENGTHS,
    NAMED,
    BadRow,
    DataReport,
    SplitReport,
    check_data,
    histogram,
    render,
)
from mm1_mlx.data.records import RecordFile, open_folder
from mm1_mlx.inputs.inputs import PreparedPicture
from mm1_mlx.inputs.processor import Processor

REPORT = """\
data/train.jsonl
  rows      1,208, 1 of them cannot be used
  forms     caption 1,000, question 203
  pictures  1,002; pixels: least 64 x 48, median 640 x 480, most 4032 x 3024
  tokens    205,553; of a row: least 160, median 170, most 1,423
      157 -   160  ████████████████████████████████████████  600
      161 -   164                                              0
      165 -   168                                              0
      169 -   172  ████████████████████                      300
      173 -   176                                              0
      177 -   180                                              0
      181 -   184  █████████████▍                            200
      185 -   188                                              0
      189 -   192  ███████▏                                  107
      193 - 1,423  ▏                                           1
  data/train.jsonl, line 4: this is not JSON; write one object a line.

data/valid.jsonl
  rows      2, all can be used
  forms     text 2
  tokens    8; of a row: least 3, median 5, most 5
    3 - 3  ████████████████████████████████████████  1
    4 - 5  ████████████████████████████████████████  1"""


@pytest.fixture
def folder(tmp_path, picture):
    shutil.copy(picture, tmp_path / "scene.png")
    whole = picture.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (40, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (400, 300)).save(tmp_path / "large.png")
    return tmp_path


@pytest.fixture
def check(folder, mm1_tiny):
    """The report on ``rows`` as ``train.jsonl``, and others by split."""

    def check(rows, *, processor=mm1_tiny[1], max_seq_length=None, **splits):
        for split, lines in {"train": rows, **splits}.items():
            text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
            (folder / f"{split}.jsonl").write_text(text)
        return check_data(open_folder(folder), processor, max_seq_length=max_seq_length)

    return check


def asked(image="scene.png", **values):
    return {"image": image, "question": "What color is it?", "answer": "red"} | values


def told(image="scene.png"):
    return {"image": image, "caption": "a red circle"}


def test_what_is_in_each_split_is_counted(check):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    pair = {"images": ["small.png", "large.png", None], "texts": [None, None, "two"]}
    report = check([asked(), asked(), told(), {"messages": messages}], valid=[pair, {"text": "red"}])
    train, valid = report.splits["train"], report.splits["valid"]
    assert train.forms == {"question": 2, "caption": 1, "chat": 1}
    assert valid.forms == {"interleaved": 1, "text": 1}
    assert (train.num_rows, len(train.sizes), report.bad) == (4, 3, [])
    assert valid.sizes == [(40, 20), (400, 300)]


def test_an_escaped_place_is_a_word_that_costs_tokens_and_no_picture(check):
    report = check(
        [asked(question="Is \\<image> on <image>?"), {"text": "a \\<image>"}, {"text": "a <image>"}]
    )
    (bad,) = report.bad
    assert "the text has 1 <image> but the row has 0 pictures" in bad.reason
    assert len(report.splits["train"].sizes) == 1


def test_a_row_costs_the_tokens_of_its_text_and_pictures(check, mm1_tiny):
    _, processor = mm1_tiny
    (caption, text), visual = check([told(), {"text": "a red circle"}]).splits["train"].lengths, 16
    assert caption == text + visual
    assert text == len(processor.prompt_ids("a red circle", 0, template="plain")) + 1  # and its end


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "this is not JSON (Expecting property name enclosed in double quotes at column 2); write one"),
        (asked(answer=None), "there is a question but no answer; add it."),
        (asked("gone.png"), "image is 'gone.png', but there is no such file in "),
        (asked("cut.png"), "cut.png is damaged or cut short"),
        (asked("text.png"), "text.png is not a picture of a known kind"),
        (asked("data:image/png;base64,?"), "the data: URL is not valid base64"),
        (
            asked("data:image/png;base64," + base64.b64encode(b"x").decode()),
            "is not a picture of a known kind",
        ),
        (asked(question="Is <|begin|> red? " + "x" * 9000), "tokens, but the model's context is"),
        (asked(question="\ud800"), "is not valid Unicode text"),
    ],
    ids=["json", "field", "missing", "cut", "other", "base64", "bytes", "long", "unicode"],
)
def test_a_row_that_cannot_be_used_is_told_with_the_reason(check, folder, line, words):
    report = check([asked(), "", line, asked()])
    (bad,) = report.bad
    assert bad.name == f"{folder}/train.jsonl, line 3"
    assert words in bad.reason and bad.name not in bad.reason and "\n" not in bad.reason
    assert f"  {bad.name}: {bad.reason}" in render(report)
    assert report.splits["train"].forms == {"question": 2}


def test_a_huge_picture_is_told_and_not_decoded(check, mm1_tiny):
    processor = Processor(mm1_tiny[1].tokenizer, mm1_tiny[1].config, max_pixels=100_000)
    report = check([asked("large.png"), asked("small.png")], processor=processor)
    (bad,) = report.bad
    assert "large.png has 400 x 300 = 120,000 pixels, more than the limit of 100,000; shrink it" in bad.reason


def test_a_row_longer_than_the_limit_is_counted_and_told(check):
    whole = check([asked(), asked(question="red " * 50)])
    short, long = whole.splits["train"].lengths
    report = check([asked(), asked(question="red " * 50)], max_seq_length=short)
    assert report.splits["train"].lengths == [short, long]
    (bad,) = report.bad
    assert bad.reason.startswith(
        f"it is {long} tokens, 16 of them for pictures, more than `max_seq_length` {short}; shorten it"
    )


def test_bad_rows_of_all_splits_come_in_order(check):
    report = check([asked(), "{", told(), "["], test=["{", asked()])
    assert [row.name.rpartition("/")[2] for row in report.bad] == [
        *("train.jsonl, line 2", "train.jsonl, line 4", "test.jsonl, line 1")
    ]


@pytest.fixture
def watched(monkeypatch):
    """What goes on during a check: decoded views that are alive, and how often pictures were decoded."""
    watched, lock = types.SimpleNamespace(alive=0, most=0, decoded=0), threading.RLock()
    views = PreparedPicture.views

    def count(change):
        with lock:
            watched.alive += change
            watched.most = max(watched.most, watched.alive)

    def counted(self):
        found = views(self)
        watched.decoded += 1
        for view in found:
            count(+1)
            weakref.finalize(view, count, -1)
        return found

    monkeypatch.setattr(PreparedPicture, "views", counted)
    return watched


def test_few_rows_and_pictures_are_in_memory_at_once(folder, mm1_tiny, watched, monkeypatch):
    for number in range(60):
        Image.new("RGB", (30, 30), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "train.jsonl").write_text("\n".join(json.dumps(told(f"{number}.png")) for number in range(60)))
    ahead, read = [0], RecordFile.__getitem__
    monkeypatch.setattr(data_check.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(
        RecordFile, "__getitem__", lambda self, index: ahead.append(index) or read(self, index)
    )
    done = []

    def tick():
        done.append(max(ahead) - len(done))

    check_data(open_folder(folder), mm1_tiny[1], tick=tick)
    assert len(done) == watched.decoded == 60
    assert max(done) <= 4 * 2 + 1 and watched.most <= 2


def test_a_picture_that_comes_again_is_opened_once(check, watched):
    assert len(check([asked(), told(), asked("small.png")]).splits["train"].sizes) == 3
    assert watched.decoded == 2


def test_of_several_pictures_the_bad_one_is_numbered(check):
    report = check([{"images": ["scene.png", "cut.png"], "question": "Which?", "answer": "red"}])
    assert report.bad[0].reason.startswith("picture 2 of 2: ")


@given(st.lists(st.integers(1, 5000), min_size=1))
def test_a_histogram_shows_every_row_once(lengths):
    lines = list(histogram(lengths))
    found = [re.fullmatch(r" +([\d,]+) - +([\d,]+)  ([█▏▎▍▌▋▊▉]*) +([\d,]+)", line) for line in lines]
    ranges = [[int(match[group].replace(",", "")) for group in (1, 2, 4)] for match in found]
    for first, last, count in ranges:
        assert count == sum(first <= length <= last for length in lengths)
    assert sum(count for *_, count in ranges) == len(lengths)
    assert len(lines) <= LENGTHS + 2 and len({len(line) for line in lines}) == 1
    assert max(len(match[3]) for match in found) == BAR
    assert all(bool(match[3]) == (match[4] != "0") for match in found)


def test_a_report_reads_well():
    bad = [BadRow("data/train.jsonl, line 4", "this is not JSON; write one object a line.")]
    forms = Counter({"caption": 1000, "question": 203})
    sizes = [(4032, 3024), *[(640, 480)] * 1000, (64, 48)]
    lengths = [*[160] * 600, *[170] * 300, *[184] * 200, *[190] * 107, 1423]
    train = SplitReport("data/train.jsonl", 1208, forms, sizes, lengths, bad)
    valid = SplitReport("data/valid.jsonl", 2, Counter({"text": 2}), [], [3, 5], [])
    assert render(DataReport({"train": train, "valid": valid})) == REPORT


def test_of_many_bad_rows_the_first_are_named():
    bad = [BadRow(f"line {number}", "it is bad.") for number in range(NAMED + 3)]
    lines = render(DataReport({"train": SplitReport("train.jsonl", len(bad), bad=bad)})).split("\n")
    assert lines[-2:] == [f"  line {NAMED - 1}: it is bad.", "  … and 3 more that cannot be used"]
    assert len(lines) == 2 + NAMED + 1
