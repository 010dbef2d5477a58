"""Safetensors shards that are written tensor by tensor."""

import json
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.tensors import open_tensors
from mm1_mlx.files.shards import MAX_SHARD, split_shards, write_shards
from mm1_mlx.files.tensor_files import CODES, Form

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
KINDS = st.tuples(SHAPES, st.sampled_from([dtype for dtype in CODES if dtype != mx.float64]))
TENSORS = st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), KINDS, min_size=1)


def arrays(kinds, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: mx.array(rng.integers(0, 2 if dtype == mx.bool_ else 200, shape)).astype(dtype)
        for name, (shape, dtype) in kinds.items()
    }


def forms(tensors):
    return {name: Form(value.shape, value.dtype) for name, value in tensors.items()}


def write(folder, tensors, **options):
    write_shards(Path(folder), forms(tensors), tensors.items(), **options)


def numbered(count, size=10):
    return {f"t{number}": mx.full((size,), number, dtype=mx.float32) for number in range(count)}


def shards(folder):
    return {path.name: list(mx.load(str(path))) for path in sorted(folder.glob("*.safetensors"))}


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and bytes(one) == bytes(other)


@settings(max_examples=60)
@given(TENSORS, st.integers(0, 2**32 - 1))
def test_mlx_reads_what_was_written(kinds, seed):
    tensors = arrays(kinds, seed)
    with tempfile.TemporaryDirectory() as folder:
        write(folder, tensors)
        read = mx.load(f"{folder}/model.safetensors")
        mx.eval(read)
    assert read.keys() == tensors.keys()
    assert all(same(read[name], tensors[name]) for name in tensors)


@settings(max_examples=30)
@given(TENSORS, st.integers(1, 400))
def test_whatever_the_limit_every_tensor_is_written_once(kinds, limit):
    tensors = arrays(kinds)
    with tempfile.TemporaryDirectory() as folder:
        write(folder, tensors, max_shard=limit)
        read = [item for path in Path(folder).glob("*.safetensors") for item in mx.load(str(path)).items()]
        mx.eval([value for _, value in read])
    assert len(read) == len(tensors) and all(same(value, tensors[name]) for name, value in read)


def test_the_file_holds_what_mlx_itself_would_write(tmp_path):
    tensors = numbered(4)
    write(tmp_path, tensors)
    mx.save_safetensors(str(tmp_path / "by-mlx.safetensors"), tensors, metadata={"format": "mlx"})
    ours, metadata = mx.load(str(tmp_path / "model.safetensors"), return_metadata=True)
    theirs, expected = mx.load(str(tmp_path / "by-mlx.safetensors"), return_metadata=True)
    assert metadata == expected == {"format": "mlx"}
    assert all(same(ours[name], theirs[name]) for name in tensors) and ours.keys() == theirs.keys()


def test_tensors_that_are_not_contiguous_are_written_in_reading_order(tmp_path):
    value = mx.arange(24, dtype=mx.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    write(tmp_path, {"a": value})
    assert mx.load(str(tmp_path / "model.safetensors"))["a"].tolist() == value.tolist()


def test_every_bit_of_bfloat16_is_kept(tmp_path):
    value = mx.arange(2**16, dtype=mx.uint32).astype(mx.uint16).view(mx.bfloat16)
    write(tmp_path, {"a": value})
    read = mx.load(str(tmp_path / "model.safetensors"))["a"]
    assert read.dtype == mx.bfloat16 and mx.array_equal(read.view(mx.uint16), value.view(mx.uint16))


def test_a_header_is_a_multiple_of_eight_bytes(tmp_path):
    for length in range(1, 9):
        write(tmp_path, {"n" * length: mx.zeros(3)})
        size = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
        assert size % 8 == 0


def test_one_shard_has_the_plain_name(tmp_path):
    write(tmp_path, numbered(3))
    assert list(shards(tmp_path)) == ["model.safetensors"]


def test_a_shard_ends_before_it_is_larger_than_the_limit(tmp_path):
    write(tmp_path, numbered(5), max_shard=80)  # two tensors of 40 bytes
    assert {name: sorted(held) for name, held in shards(tmp_path).items()} == {
        "model-00001-of-00003.safetensors": ["t0", "t1"],
        "model-00002-of-00003.safetensors": ["t2", "t3"],
        "model-00003-of-00003.safetensors": ["t4"],
    }


def test_a_tensor_larger_than_the_limit_has_a_shard_of_its_own(tmp_path):
    write(tmp_path, {"a": mx.zeros(1), "b": mx.zeros(100), "c": mx.zeros(1)}, max_shard=40)
    assert list(shards(tmp_path).values()) == [["a"], ["b"], ["c"]]


def test_a_shard_is_five_gigabytes_at_most():
    assert MAX_SHARD == 5_000_000_000
    halves = {name: Form((2_500_000_000 // 4,), mx.float32) for name in "abc"}
    assert {name: list(held) for name, held in split_shards(halves).items()} == {
        "model-00001-of-00002.safetensors": ["a", "b"],
        "model-00002-of-00002.safetensors": ["c"],
    }


def test_the_index_names_each_tensors_shard_and_the_size_of_all(tmp_path):
    tensors = numbered(5)
    write(tmp_path, tensors, max_shard=80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"] == {key: name for name, held in shards(tmp_path).items() for key in held}


def test_the_index_leads_to_every_tensor(tmp_path):
    tensors = numbered(5)
    write(tmp_path, tensors, max_shard=80)
    with open_tensors(tmp_path) as found:
        assert found.infos.keys() == tensors.keys()
        assert all(same(found.read(name), tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("t1", mx.zeros(10), "^t1 came in the place of t0"),
        ("t0", mx.zeros(11), r"^t0 is \(11,\) .*, expected \(10,\)"),
        ("t0", mx.zeros((10, 1)), r"^t0 is \(10, 1\) .*, expected \(10,\)"),
        ("t0", mx.zeros(10, dtype=mx.float16), "^t0 is .* mlx.core.float16, expected .* mlx.core.float32"),
    ],
)
def test_a_tensor_out_of_turn_is_refused(tmp_path, name, value, said):
    with pytest.raises(ValueError, match=said):
        write_shards(tmp_path, forms(numbered(2)), [(name, value)])


def test_without_all_tensors_there_is_no_index(tmp_path):
    def interrupted():
        yield "t0", numbered(1)["t0"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, forms(numbered(2)), interrupted())
    assert not (tmp_path / "model.safetensors.index.json").exists()
