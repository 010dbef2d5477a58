"""Weights are those that the index lists: no other file is read, and none of them may be missing."""

import json

import mlx.core as mx
import pytest

from mm1_mlx import load
from mm1_mlx.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def sharded(tiny_folder):
    """Return the shipped model in two shards with their index."""
    weights = dict(mx.load(str(tiny_folder / "model.safetensors")))
    mx.eval(weights)
    (tiny_folder / "model.safetensors").unlink()
    keys = sorted(weights)
    places = {key: SHARDS[number >= len(keys) // 2] for number, key in enumerate(keys)}
    for shard in SHARDS:
        own = {key: weights[key] for key in keys if places[key] == shard}
        mx.save_safetensors(str(tiny_folder / shard), own)
    (tiny_folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return tiny_folder


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    return str(caught.value)


def zeros_like(folder, name, *keys):
    """Write a file of zeros for some of the model's tensors."""
    weights = {key: value for shard in SHARDS for key, value in mx.load(str(folder / shard)).items()}
    mx.save_safetensors(str(folder / name), {key: mx.zeros_like(weights[key]) for key in keys or weights})


@pytest.mark.parametrize(
    "name", ["model-00003-of-00003.safetensors", "model.safetensors", "model_old.safetensors"]
)
def test_a_file_that_the_index_does_not_list_is_refused_by_name(name, sharded):
    zeros_like(sharded, name)
    assert f"holds {name}, which {INDEX} does not list" in refusal(sharded)


def test_a_file_that_the_index_lists_and_the_folder_lacks_is_refused(sharded):
    (sharded / SHARDS[1]).unlink()
    assert f"{SHARDS[1]}, which is missing" in refusal(sharded)


def test_a_tensor_that_two_files_hold_is_taken_from_the_one_that_the_index_names(sharded, mm1_tiny):
    index = json.loads((sharded / INDEX).read_text())
    key = next(key for key, shard in index["weight_map"].items() if shard == SHARDS[0])
    second = dict(mx.load(str(sharded / SHARDS[1])))
    right = mx.load(str(sharded / SHARDS[0]))[key]
    mx.eval(second, right)
    mx.save_safetensors(str(sharded / SHARDS[1]), second | {key: mx.zeros_like(right)})
    value = load(sharded, lazy=True)[0]
    for name in key.split("."):
        value = value[int(name) if name.isdigit() else name]
    assert mx.array_equal(value, right)


def test_a_tensor_that_the_index_does_not_list_is_refused(sharded):
    second = dict(mx.load(str(sharded / SHARDS[1])))
    mx.eval(second)
    mx.save_safetensors(str(sharded / SHARDS[1]), second | {"decoder.more": mx.zeros(1)})
    assert f"{SHARDS[1]} holds decoder.more, which the index does not list" in refusal(sharded)


def test_without_an_index_a_tensor_in_two_files_is_refused(sharded):
    (sharded / INDEX).unlink()
    zeros_like(sharded, "model_old.safetensors")
    assert "model_old.safetensors holds" in refusal(sharded) and "holds too" in refusal(sharded)


def test_without_an_index_a_missing_shard_is_refused(sharded):
    (sharded / INDEX).unlink()
    (sharded / SHARDS[0]).unlink()
    assert f"{SHARDS[0]} is missing" in refusal(sharded)


def test_an_index_that_cannot_be_read_is_refused(sharded):
    (sharded / INDEX).write_text("{}")
    assert "has no weight_map" in refusal(sharded)
