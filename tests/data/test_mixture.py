"""A mixture gives every source its share; the seed and an update's number alone decide its rows."""

import io
import json
import tarfile
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.mixture import FORGIVEN, MIXES, open_mixture, weights_of
from mm1_mlx.data.settings import DataSettings
from mm1_mlx.data.sources import SourceSettings
from mm1_mlx.errors import ConfigError, DataError

SETTINGS = DataSettings(batch_size=6, max_seq_length=256, truncate=True)
GENERATORS = {name: lambda number, seed, name=name: {"text": f"{name} {number} {seed}"} for name in "abc"}


def of(weights, settings=SETTINGS, **options):
    sources = {name: SourceSettings(generator=name, weight=weight) for name, weight in weights.items()}
    return open_mixture(sources, settings, generators=GENERATORS, **options)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.integers(0, 50))
def test_realised_shares_are_the_weights(parts, seed):
    weights = {name: part / sum(parts) for name, part in zip("abc", parts, strict=False)}
    mixture = of(weights, replace(SETTINGS, seed=seed))
    found = Counter(mixture.slot(number).source for number in range(1000))
    assert all(
        abs(found[name] / 1000 - weight) < 0.01 + sum(parts) / 1000 for name, weight in weights.items()
    )


def test_a_source_is_drawn_from_in_order_and_nothing_twice():
    mixture = of({"a": 0.5, "b": 0.3, "c": 0.2})
    slots = [mixture.slot(number) for number in range(500)]
    for name in "abc":
        draws = [slot.draw for slot in slots if slot.source == name]
        assert sorted(draws) == list(range(len(draws)))


@given(st.integers(1, 3), st.integers(0, 40))
def test_processes_share_the_slots_of_a_process_alone(size, update):
    settings = replace(SETTINGS, batch_size=2 * size)
    weights = {"a": 0.7, "b": 0.3}
    alone = of(weights, settings).rows_of(update)
    shares = [of(weights, settings, rank=rank, size=size).rows_of(update) for rank in range(size)]
    assert [shares[place % size][place // size] for place in range(len(alone))] == alone


def test_seeds_decide_the_order():
    first, other = (of({"a": 0.5, "b": 0.5}, replace(SETTINGS, seed=seed)) for seed in (0, 1))
    assert [first.slot(n) for n in range(40)] != [other.slot(n) for n in range(40)]


def test_the_papers_mixes():
    sources = {name: SourceSettings(generator="a") for name in ("text", "captions", "interleaved")}
    assert weights_of(sources, "mm1") == {"text": 0.1, "captions": 0.45, "interleaved": 0.45}
    assert weights_of(sources, "mm1.5")["text"] == 0.4
    assert all(sum(mix.values()) == pytest.approx(1) for mix in MIXES.values())


@pytest.mark.parametrize(
    "weights, words",
    [
        ({"a": 0.5, "b": 0.4}, r"sum to 0.9, expected 1: a 0.5 \+ b 0.4"),
        ({"a": 0.5, "b": None}, "b has no weight, but other sources have"),
        ({"a": None, "b": None}, "the sources are a, b, but the mix mm1 is of captions, interleaved, text"),
        ({"a": 0.9999, "b": 0.0001}, "a weight is 0.0001, expected at least 1 of 1,000 rows"),
        ({}, "needs at least one source"),
    ],
)
def test_weights_that_make_no_mixture_are_refused(weights, words):
    with pytest.raises(ConfigError, match=words):
        of(weights)


# Shards


def png(number=0):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (number % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def captions(count, first=0):
    members = {}
    for number in range(first, first + count):
        members[f"{number:04}.png"] = png(number)
        members[f"{number:04}.txt"] = f"caption {number}".encode()
    return members


def source(settings=SETTINGS, say=lambda line: None, **options):
    return open_mixture({"s": SourceSettings(**options)}, settings, say=say)


def texts(mixture, count):
    return [mixture[mixture.slot(number)].document for number in range(count)]


def parquet_of(path, rows, **options):
    table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
    pytest.importorskip("pyarrow.parquet").write_table(table, path, **options)
    return path


def jsonl_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["tar", "parquet", "jsonl"])
def test_an_epoch_of_shards_has_every_row_once(tmp_path, kind):
    for shard in range(3):
        rows = [
            {"caption": f"caption {n}", "image": {"bytes": png(n), "path": None}}
            for n in range(10 * shard, 10 * shard + 10)
        ]
        if kind == "tar":
            tar_of(tmp_path / f"{shard:02}.tar", captions(10, 10 * shard))
        elif kind == "parquet":
            parquet_of(tmp_path / f"{shard:02}.parquet", rows, row_group_size=4)
        else:
            jsonl_of(tmp_path / f"{shard:02}.jsonl", [{"text": row["caption"]} for row in rows])
    mixture = source(path=f"{tmp_path}/{{00..02}}.{kind}")
    first, second = texts(mixture, 60)[:30], texts(mixture, 60)[30:]
    before = "" if kind == "jsonl" else "<image>"
    assert sorted(first) == sorted(second) == sorted(f"{before}caption {n}" for n in range(30))
    assert first != second
    assert mixture.epochs(10) == {"s": 2.0}
    assert texts(source(path=f"{tmp_path}/*.{kind}"), 60) == [*first, *second]


def test_a_tar_row_may_be_a_document(tmp_path):
    row = {"images": ["0.jpg", None, "1.jpg"], "texts": [None, "then", None]}
    path = tar_of(
        tmp_path / "a.tar", {"d.json": json.dumps(row).encode(), "d.0.jpg": png(1), "d.1.jpg": png(2)}
    )
    (record,) = [source(path=str(path))[source(path=str(path)).slot(0)]]
    assert record.document == "<image>then<image>" and record.images == (png(1), png(2))


def test_a_key_that_is_null_leaves_a_tar_row_its_text(tmp_path):
    members = captions(1) | {"0000.json": b'{"caption": null, "url": "x"}'}
    assert texts(source(path=str(tar_of(tmp_path / "a.tar", members))), 1) == ["<image>caption 0"]


def test_obelics_columns_are_read(tmp_path):
    image = {"bytes": png(), "path": None}
    rows = [{"images": [image, None], "texts": [None, "A red square."], "metadata": "[]"}]
    mixture = source(path=str(parquet_of(tmp_path / "a.parquet", rows)))
    assert texts(mixture, 1) == ["<image>A red square."]


def test_columns_can_be_named(tmp_path):
    rows = [{"jpg": {"bytes": png(), "path": None}, "text": "a cat"}]
    path = parquet_of(tmp_path / "a.parquet", rows)
    columns = {"image": "jpg", "caption": "text"}
    assert texts(source(path=str(path), columns=columns), 1) == ["<image>a cat"]
    with pytest.raises(DataError, match="has no column alt; its columns: jpg, text"):
        source(path=str(path), columns={"caption": "alt"})
    for wrong in ({"captoin": "text"}, {"caption": 3}):
        with pytest.raises(ConfigError, match=r"columns has .*expected a key of a row"):
            SourceSettings(path=str(path), columns=wrong)
    with pytest.raises(DataError, match=r"a.jsonl has no columns; leave them out"):
        source(path=str(jsonl_of(tmp_path / "a.jsonl", rows[:0])), columns=columns)
    only = parquet_of(tmp_path / "b.parquet", [{"url": "x"}])
    with pytest.raises(
        DataError, match=r"source s: .* has no column caption, or images and texts; its columns: url"
    ):
        source(path=str(only))


def test_parquet_that_cannot_be_read_is_a_damaged_row(tmp_path):
    pa = pytest.importorskip("pyarrow")
    ends = pa.array([0, 3], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff\xfea")])
    path = parquet_of(tmp_path / "a.parquet", [{"text": "x"}])
    pa.parquet.write_table(pa.table({"text": text}), path)
    with pytest.raises(DataError, match=r"row 0 cannot be read .*'utf-8' codec"):
        texts(source(path=str(path)), 1)
    whole = parquet_of(path, [{"caption": "x"}]).read_bytes()
    path.write_bytes(whole.replace(b"caption", b"capti\xff\xff"))
    with pytest.raises(DataError, match=r"a.parquet cannot be read as Parquet"):
        source(path=str(path))
    pa.parquet.write_table(pa.table([text, text], names=["text", "text"]), path)
    with pytest.raises(DataError, match="has two columns called text; rename one"):
        source(path=str(path))


def test_a_stream_that_broke_off_says_why_every_time(tmp_path):
    pytest.importorskip("datasets")
    jsonl_of(tmp_path / "train.jsonl", [{"text": "row"}])
    mixture = source(hub=str(tmp_path), columns={"text": "content"})
    with pytest.raises(DataError, match="has no column content; its columns: text"):
        texts(mixture, 1)

    def broken():
        raise OSError("the line is dead")
        yield

    stream = mixture.sources["s"]
    stream._rows, stream._read = broken(), 5
    for _ in range(3):
        with pytest.raises(DataError, match="stopped after 5 rows: the line is dead"):
            stream.draw(5)


def test_a_stream_goes_on_epoch_after_epoch_and_back(tmp_path):
    pytest.importorskip("datasets")
    jsonl_of(tmp_path / "train.jsonl", [{"text": f"row {n}"} for n in range(5)])
    mixture = source(hub=str(tmp_path))
    found = texts(mixture, 15)
    assert [sorted(found[n : n + 5]) for n in (0, 5, 10)] == [[f"row {n}" for n in range(5)]] * 3
    assert texts(source(hub=str(tmp_path)), 15)[7:] == found[7:]
    assert mixture.epochs(100) == {}


def test_a_damaged_shard_is_left_out_and_told(tmp_path):
    for shard in range(3):
        tar_of(tmp_path / f"{shard}.tar", captions(4, 4 * shard))
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 2 + 100])
    said = []
    mixture = source(path=f"{tmp_path}/*.tar", max_bad_shards=0.5, say=said.append)
    assert len(set(texts(mixture, 8))) == 8
    assert len(said) == 1 and "s: a shard is left out" in said[0] and "1.tar" in said[0]
    with pytest.raises(DataError, match=r"1 of 3 shards cannot be used, more than max_bad_shards 0.1"):
        source(path=f"{tmp_path}/*.tar")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path.write_bytes(b""), "holds no rows|cannot be read as a tar shard"),
        (lambda path: path.write_bytes(b"nothing" * 300), "cannot be read as a tar shard"),
        (lambda path: tar_of(path, {}), "holds no rows"),
        (lambda path: None, "there is no file"),
    ],
    ids=["empty", "no tar", "no members", "missing"],
)
def test_shards_that_hold_nothing_are_refused(tmp_path, make, words):
    make(tmp_path / "a.tar")
    with pytest.raises(DataError, match=f"source s: .*({words})"):
        source(path=str(tmp_path / "a.tar"))


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b")
    for options, words in (
        ({"path": str(tmp_path / "a.csv")}, "no kind of data that is known"),
        ({"generator": "tiny:captoins"}, "there is no generator 'tiny:captoins'"),
        ({"path": f"{tmp_path}/{{9..1}}.tar"}, "names no files"),
        ({"path": f"{tmp_path}/{{0..999999999}}.tar"}, "names more than 1,000,000 files"),
    ):
        with pytest.raises(DataError, match=words):
            source(**options)
    for options, words in (
        ({}, "nothing is given"),
        ({"path": ""}, "path is empty"),
        ({"path": "a", "hub": "b/c"}, "path and hub is given"),
    ):
        with pytest.raises(ConfigError, match=words):
            SourceSettings(**options)


# Rows


def test_what_was_read_is_counted(mm1_tiny, tmp_path):
    tar_of(tmp_path / "a.tar", captions(30))
    sources = {
        "captions": SourceSettings(path=str(tmp_path / "a.tar"), weight=0.5),
        "text": SourceSettings(generator="a", weight=0.5),
    }
    mixture = open_mixture(sources, SETTINGS, generators=GENERATORS)
    batches = Batches(mixture, mm1_tiny[1], SETTINGS)
    packed = [packed for group in batches.updates(0, 10) for packed in group]
    assert mixture.counts["captions"].rows == mixture.counts["text"].rows == 30
    assert sum(counts.tokens for counts in mixture.counts.values()) == sum(p.num_tokens for p in packed)
    assert mixture.counts["captions"].pictures == sum(p.num_pictures for p in packed) == 30
    later = open_mixture(sources, SETTINGS, generators=GENERATORS)
    (again,) = Batches(later, mm1_tiny[1], SETTINGS).updates(9, 10)
    *_, last = batches.updates(0, 10)
    assert [p.names for p in again] == [p.names for p in last]


def test_damaged_rows_are_left_out_until_they_are_too_many(mm1_tiny, tmp_path, capsys):
    members = captions(40)
    for number in range(0, 40, 2):
        del members[f"{number:04}.txt"]
    tar_of(tmp_path / "a.tar", members)
    mixture = source(path=str(tmp_path / "a.tar"))
    updates = Batches(mixture, mm1_tiny[1], SETTINGS).updates(0, 20)
    with pytest.raises(DataError, match=r"s: 11 of \d+ rows cannot be used, more than max_bad_rows 0.01"):
        list(updates)
    assert mixture.counts["s"].damaged == FORGIVEN + 1
    assert "has no caption (.txt) or row (.json) beside png" in capsys.readouterr().err
    allowed = source(path=str(tmp_path / "a.tar"), max_bad_rows=0.6)
    assert len(list(Batches(allowed, mm1_tiny[1], SETTINGS).updates(0, 20))) == 20


def test_damage_is_counted_anew_where_that_is_asked_for_and_told_once(capsys):
    mixture = of({"a": 1.0})
    for _ in range(5):
        mixture.count_anew()
        for number in range(FORGIVEN):
            mixture.leave_out(mixture.slot(number), DataError("torn"))
    assert capsys.readouterr().err.count("torn") == 5
    with pytest.raises(DataError, match="11 of 11 rows cannot be used"):
        mixture.leave_out(mixture.slot(0), DataError("torn"))


def test_documents_are_cut_at_whole_pictures(mm1_tiny):
    image = {"bytes": png(), "path": None}
    generators = {"d": lambda number, seed: {"images": [image, None] * 5, "texts": [None, "word"] * 5}}
    settings = replace(SETTINGS, max_pictures=2, batch_size=1)
    mixture = open_mixture({"d": SourceSettings(generator="d")}, settings, generators=generators)
    ((packed,),) = Batches(mixture, mm1_tiny[1], settings).updates(0, 1)
    assert packed.num_pictures == 2
    with pytest.raises(DataError, match="it is 5 pictures, more than `max_pictures` 2"):
        next(
            Batches([mixture[mixture.slot(0)]], mm1_tiny[1], replace(settings, truncate=False)).updates(0, 1)
        )


def test_attention_reaches_over_all_rows_where_that_is_asked_for(mm1_tiny):
    settings = replace(SETTINGS, across_examples=True)
    ((packed, *_), *_) = Batches(of({"a": 1.0}, settings), mm1_tiny[1], settings).updates(0, 1)
    assert len(packed.names) > 1 and set(packed.rows.tolist()) <= {0, -1}
