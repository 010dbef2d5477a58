import json
import pickle
import sys
import tempfile
import weakref
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convert.tensors
from convert.tensors import open_tensors
from mm1_mlx.errors import CheckpointError


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def arrays(*names, size=3):
    return {name: mx.full((2, size), number) for number, name in enumerate(names, start=1)}


def write(path, *names):
    mx.save_safetensors(str(path), arrays(*names))


def write_index(path, weight_map):
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_raw(path, header, data=b""):
    """A safetensors file with whatever header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(begin, end, dtype="F32", shape=None):
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def refusal(path, **options):
    with pytest.raises(CheckpointError) as error:
        open_tensors(path, **options)
    return str(error.value)


def same(ours, theirs):
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and bytes(ours) == bytes(theirs)


# What is read


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
KINDS = st.sampled_from([mx.float32, mx.float16, mx.bfloat16, mx.int64, mx.uint8, mx.bool_])
NAMES = st.text(min_size=1).filter(lambda name: name != "__metadata__" and not name.startswith("module."))


@given(st.dictionaries(NAMES, st.tuples(SHAPES, KINDS), min_size=1, max_size=6), st.integers(0, 2**32))
def test_whatever_safetensors_writes_reads_back_equal(kinds, seed):
    rng = np.random.default_rng(seed)
    written = {
        name: mx.array(rng.integers(0, 2 if dtype == mx.bool_ else 200, shape)).astype(dtype)
        for name, (shape, dtype) in kinds.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        mx.save_safetensors(f"{folder}/model.safetensors", written)
        tensors = open_tensors(folder)
        assert tensors.infos.keys() == written.keys()
        for name, info in tensors.infos.items():
            array = tensors.read(name)
            assert same(array, written[name])
            assert (info.shape, info.dtype, info.nbytes) == (array.shape, array.dtype, array.nbytes)


def test_float64_is_read_as_float32(tmp_path):
    write_raw(
        tmp_path / "model.safetensors", {"a": entry(0, 16, "F64", [2])}, np.array([0.1, -2.0]).tobytes()
    )
    tensors = open_tensors(tmp_path)
    assert tensors.infos["a"].dtype == mx.float32
    assert same(tensors.read("a"), mx.array([0.1, -2.0]))


def test_infos_stand_in_the_order_of_the_shards_and_of_their_bytes(tmp_path):
    write(tmp_path / "model-00002-of-00002.safetensors", "a")
    write_raw(tmp_path / "model-00001-of-00002.safetensors", {"y": entry(8, 12), "z": entry(0, 8)}, bytes(12))
    tensors = open_tensors(tmp_path)
    assert list(tensors.infos) == ["z", "y", "a"]
    assert [info.shard.name[:11] for info in tensors.infos.values()] == [
        "model-00001",
        "model-00001",
        "model-00002",
    ]


def test_the_prefix_module_that_all_names_share_is_dropped(tmp_path):
    write(tmp_path / "model-1.safetensors", "module.a")
    write(tmp_path / "model-2.safetensors", "module.b")
    with open_tensors(tmp_path) as tensors:
        assert list(tensors.infos) == ["a", "b"]
        assert same(tensors.read("b"), arrays("b")["b"])


def test_the_prefix_module_that_some_names_have_stays(tmp_path):
    write(tmp_path / "model.safetensors", "module.a", "b")
    assert set(open_tensors(tmp_path).infos) == {"module.a", "b"}


def test_an_unknown_name_is_refused(tmp_path):
    write(tmp_path / "model.safetensors", "a")
    with pytest.raises(CheckpointError, match="holds no tensor b"):
        open_tensors(tmp_path).read("b")


# Which files are read


def test_names_are_looked_for_in_the_documented_order(tmp_path):
    order = [
        *(
            "model-1.safetensors",
            "open_clip_model.safetensors",
            "pytorch_model.bin",
            "open_clip_pytorch_model.bin",
        ),
        *("other.safetensors", "other.pt", "other.pth"),
    ]
    for name in reversed(order):
        (tmp_path / name).write_bytes(b"")
        assert str(tmp_path / name) in refusal(tmp_path)


def test_other_names_can_be_asked_for(tmp_path):
    write(tmp_path / "model.safetensors", "a")
    write(tmp_path / "open_clip_model.safetensors", "b")
    assert list(open_tensors(tmp_path, names=["open_clip_*"]).infos) == ["b"]


def test_one_file_can_be_given(tmp_path):
    write(tmp_path / "model.safetensors", "a")
    write(tmp_path / "adapter_model.safetensors", "b")
    assert list(open_tensors(tmp_path / "adapter_model.safetensors").infos) == ["b"]


def test_files_that_hold_no_weights_are_passed_over(tmp_path):
    names = ["adapter.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "._vit.safetensors"]
    for name in [*names, "training_args.bin"]:
        (tmp_path / name).write_bytes(b"")
    assert "holds no weights" in refusal(tmp_path)
    assert "holds no weights" in refusal(tmp_path, names=["*.bin"])


def test_two_files_of_unknown_names_are_refused(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", name)
    assert "2 files like *.safetensors (a.safetensors, b.safetensors), expected one" in refusal(tmp_path)


def test_an_empty_folder_is_refused_with_the_names_looked_for(tmp_path):
    assert "looked for model.safetensors.index.json, model*.safetensors, open_clip" in refusal(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    assert refusal(tmp_path / "no") == f"{tmp_path / 'no'} cannot be read: No such file or directory."


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "expected .safetensors or .bin, .pt" in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize("method", ["iterdir", "open"])
def test_a_lack_of_permission_is_told(method, tmp_path, monkeypatch):
    def deny(*args):
        raise PermissionError(13, "Permission denied")

    write(tmp_path / "model.safetensors", "a")
    monkeypatch.setattr(Path, method, deny)
    assert "cannot be read: Permission denied." in refusal(tmp_path)


def test_a_name_in_two_shards_is_refused(tmp_path):
    write(tmp_path / "model-1.safetensors", "a", "b")
    write(tmp_path / "model-2.safetensors", "b", "c")
    message = refusal(tmp_path)
    assert "model-1.safetensors" in message and "model-2.safetensors both hold b" in message


# The index


@pytest.fixture
def indexed(tmp_path):
    """Two shards and their index; b is in both, the index leaves c out."""
    write(tmp_path / "model-1.safetensors", "a", "b", "c")
    write(tmp_path / "model-2.safetensors", "x", "b")
    write_index(
        tmp_path / "model.safetensors.index.json", {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    )
    return tmp_path


def test_the_index_says_which_tensors_are_read_and_from_where(indexed):
    tensors = open_tensors(indexed)
    assert {name: info.shard.name for name, info in tensors.infos.items()} == {
        "a": "model-1.safetensors",
        "b": "model-2.safetensors",
    }
    assert [path.name for path in tensors.shards] == ["model-1.safetensors", "model-2.safetensors"]
    assert same(tensors.read("b"), arrays("x", "b")["b"])


@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_weights_that_the_index_does_not_list_are_refused(end, tmp_path):
    name = "model" if end == "safetensors" else "pytorch_model"
    for number in (1, 2):
        (tmp_path / f"{name}-{number}.{end}").touch()
    (tmp_path / f"{name}_old.{end}").touch()
    write_index(tmp_path / f"{name}.{end}.index.json", {"a": f"{name}-1.{end}", "b": f"{name}-2.{end}"})
    assert f"holds {name}_old.{end}, which {name}.{end}.index.json does not list" in refusal(tmp_path)


def test_the_index_itself_can_be_given_beside_other_weights(indexed):
    write(indexed / "model-3.safetensors", "a")
    assert list(open_tensors(indexed / "model.safetensors.index.json").infos) == ["a", "b"]


def test_a_shard_that_the_index_names_and_the_folder_lacks_is_refused(indexed):
    (indexed / "model-2.safetensors").unlink()
    message = refusal(indexed)
    assert "model-2.safetensors, which is missing; download" in message


def test_a_tensor_that_its_shard_lacks_is_refused(indexed):
    write(indexed / "model-2.safetensors", "x")
    assert "model-2.safetensors lacks b, which the index places there" in refusal(indexed)


@pytest.mark.parametrize("shard", ["../model-1.safetensors", "/etc/passwd", "..", "", 7])
def test_an_index_cannot_point_elsewhere(shard, indexed):
    write_index(indexed / "model.safetensors.index.json", {"a": shard})
    message = refusal(indexed)
    assert f"places a in {shard!r}, expected a file beside" in message or "is missing" in message


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_an_index_that_is_not_json_is_refused(text, indexed):
    (indexed / "model.safetensors.index.json").write_bytes(text)
    assert "model.safetensors.index.json is not valid JSON" in refusal(indexed)


@pytest.mark.parametrize("values", [[], {}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_a_map_is_refused(values, indexed):
    (indexed / "model.safetensors.index.json").write_text(json.dumps(values))
    assert "has no weight_map" in refusal(indexed)


# Damaged safetensors


@pytest.mark.parametrize("kept", [0, 5, 8, 30, -1])
def test_a_file_cut_short_is_refused_when_it_is_opened(kept, tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, "a", "b")
    path.write_bytes(path.read_bytes()[:kept])
    message = refusal(tmp_path)
    assert str(path) in message and f"has {path.stat().st_size} bytes" in message


def test_a_file_cut_short_after_it_was_opened_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, "a")
    tensors = open_tensors(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="ended after 23 of the 24 bytes of a"):
        tensors.read("a")


def test_bytes_after_the_last_tensor_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_raw(path, {"a": entry(0, 4)}, bytes(9))
    size = path.stat().st_size
    assert (
        f"{path} is damaged or no safetensors file (incomplete metadata, file not fully covered; it has {size} bytes)"
        in refusal(tmp_path)
    )


@pytest.mark.parametrize(
    "start", [b"version https://git-lfs.github.com/spec/v1", (150_000_000).to_bytes(8, "little")]
)
def test_a_header_of_absurd_length_is_refused(start, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(start)
    with path.open("ab") as file:
        file.truncate(200_000_000)  # takes no space on disk
    assert f"{path} is damaged or no safetensors file (header too large; it has 200000000 bytes)" in refusal(
        tmp_path
    )


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(0, 8), "b": entry(4, 12)},  # overlap
        {"a": entry(0, 4), "b": entry(8, 12)},  # gap
        {"a": entry(0, 12, shape=[2])},  # more bytes than the shape takes
        {"a": entry(8, 4, shape=[1])},
        {"a": entry(-4, 8)},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12, 12]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": "0, 12"}},
        {"a": {"dtype": "F32", "shape": [3]}},
        {"a": [0, 12]},
    ],
)
def test_offsets_that_cannot_be_are_refused(header, tmp_path):
    write_raw(tmp_path / "model.safetensors", header, bytes(12))
    message = refusal(tmp_path)
    assert f"{tmp_path / 'model.safetensors'} is damaged or no safetensors file (invalid " in message


@pytest.mark.parametrize("shape", [None, [-3], [3.0], [True, 3], "3"])
def test_a_shape_that_cannot_be_is_refused(shape, tmp_path):
    write_raw(tmp_path / "model.safetensors", {"a": {**entry(0, 12), "shape": shape}}, bytes(12))
    assert f"{tmp_path / 'model.safetensors'} is damaged or no safetensors file (invalid " in refusal(
        tmp_path
    )


def test_a_shape_that_mlx_cannot_count_is_refused(tmp_path):
    write_raw(tmp_path / "model.safetensors", {"a": entry(0, 0, shape=[0, 2**40])})
    assert f"a is (0, {2**40}), more than MLX can count" in refusal(tmp_path)


@pytest.mark.parametrize("dtype, shape", [("F8_E4M3", [12]), ("F4", [24])])
def test_a_dtype_that_mlx_lacks_is_refused(dtype, shape, tmp_path):
    write_raw(tmp_path / "model.safetensors", {"a": entry(0, 12, dtype, shape)}, bytes(12))
    assert f"a holds {dtype}, which MLX lacks" in refusal(tmp_path)


@pytest.mark.parametrize("dtype", [None, ["F32"], "F31"])
def test_a_dtype_that_there_is_not_is_refused(dtype, tmp_path):
    write_raw(tmp_path / "model.safetensors", {"a": entry(0, 12, dtype, [3])}, bytes(12))
    assert (
        f"{tmp_path / 'model.safetensors'} is damaged or no safetensors file (invalid JSON in header: "
        in refusal(tmp_path)
    )


@pytest.mark.parametrize("text", [b"{]", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_header_that_is_not_json_is_refused(text, tmp_path):
    write_raw(tmp_path / "model.safetensors", text)
    assert f"{tmp_path / 'model.safetensors'} is damaged or no safetensors file (invalid " in refusal(
        tmp_path
    )


def test_a_header_that_is_no_table_is_refused(tmp_path):
    write_raw(tmp_path / "model.safetensors", [1])
    assert "is damaged or no safetensors file (invalid JSON in header: invalid type: sequence" in refusal(
        tmp_path
    )


def test_a_file_without_tensors_is_refused(tmp_path):
    write_raw(tmp_path / "model.safetensors", {"__metadata__": {"format": "pt"}})
    assert "holds no tensors" in refusal(tmp_path)


# Pickles


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "name", ["float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool"]
)
def test_a_state_dict_reads_back_equal(name, new_format, torch, tmp_path):
    values = torch.randint(2, (3, 4), generator=torch.Generator().manual_seed(0)).to(getattr(torch, name))
    weights = {"matrix": values, "scalar": values[0, 0].clone(), "empty": values[:0].clone()}
    path = tmp_path / "pytorch_model.bin"
    torch.save(weights, path, _use_new_zipfile_serialization=new_format)
    tensors = open_tensors(tmp_path)
    expected = getattr(mx, {"bool": "bool_", "float64": "float32"}.get(name, name))
    for key, tensor in weights.items():
        array = tensors.read(key)
        assert array.dtype == tensors.infos[key].dtype == expected
        assert array.shape == tensors.infos[key].shape == tuple(tensor.shape)
        assert array.tolist() == tensor.tolist()


def test_views_of_one_storage_read_right(torch, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    views = {"all": base, "turned": base.T, "part": base[1:3, ::2], "wide": base[0, :1].expand(5)}
    torch.save({**views, "parameter": torch.nn.Parameter(base)}, tmp_path / "model.pt")
    tensors = open_tensors(tmp_path)
    for name, view in views.items():
        np.testing.assert_array_equal(np.array(tensors.read(name)), view.numpy())
    np.testing.assert_array_equal(np.array(tensors.read("parameter")), base.numpy())


@pytest.mark.parametrize("nest", ["state_dict", "model", "module"])
def test_a_state_dict_beside_other_state_is_found(nest, torch, tmp_path):
    optimizer = {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(
        {nest: {"module.a": torch.ones(2)}, "epoch": 3, "optimizer": optimizer}, tmp_path / "epoch_3.pt"
    )
    assert list(open_tensors(tmp_path).infos) == ["a"]


def test_two_state_dicts_in_one_file_are_refused(torch, tmp_path):
    weights = {"a": torch.ones(2)}
    torch.save({"model": weights, "state_dict": weights}, tmp_path / "model.pt")
    assert "holds state_dict and model, expected one" in refusal(tmp_path)


@pytest.mark.parametrize(
    "loaded, found", [([1], "holds a list"), ({"a": 1}, "a is a int"), ({}, "no tensors")]
)
def test_a_pickle_of_something_else_is_refused(loaded, found, torch, tmp_path):
    torch.save(loaded, tmp_path / "model.pt")
    assert found in refusal(tmp_path)


def test_a_tensor_that_mlx_lacks_is_refused(torch, tmp_path):
    torch.save({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "a.pt")
    assert "a holds torch.float8_e4m3fn, which MLX lacks" in refusal(tmp_path / "a.pt")
    torch.save({"b": torch.eye(2).to_sparse()}, tmp_path / "b.pt")
    assert "b holds torch.float32 that is not dense, which MLX lacks" in refusal(tmp_path / "b.pt")


def test_a_small_file_cannot_ask_for_much_memory(torch, tmp_path):
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "model.pt")
    assert "a takes 4000000000000 bytes, but the file has" in refusal(tmp_path)


class Creates:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False, None])
def test_a_pickle_that_wants_to_run_code_is_not_executed(new_format, torch, tmp_path):
    contents = {"a": torch.ones(2), "b": Creates(tmp_path / "created")}
    path = tmp_path / "pytorch_model.bin"
    if new_format is None:
        path.write_bytes(pickle.dumps(contents["b"], protocol=2))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=new_format)
    message = refusal(tmp_path)
    assert str(path) in message and "which may run code; nothing was executed" in message
    assert not (tmp_path / "created").exists()


def test_an_index_over_pickles_is_followed(torch, tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "pytorch_model-1.bin")
    write_index(tmp_path / "pytorch_model.bin.index.json", {"b": "pytorch_model-1.bin"})
    assert list(open_tensors(tmp_path).infos) == ["b"]


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_pickle_cut_short_is_refused(kept, new_format, torch, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(100)}, path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} is damaged or not a checkpoint of tensors" in refusal(tmp_path)


def test_a_torchscript_program_is_not_executed(torch, tmp_path, recwarn):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as program:
        for record in ("data.pkl", "constants.pkl", "version"):
            program.writestr(f"archive/{record}", "3")
    assert "holds more than tensors (TorchScript), which may run code" in refusal(tmp_path)
    assert not recwarn.list


def test_one_pickle_is_open_at_a_time(torch, tmp_path, monkeypatch):
    for number in (1, 2):
        torch.save({f"{number}": torch.ones(2)}, tmp_path / f"pytorch_model-{number}.bin")
    opened = []

    def open_shard(path, open_shard=convert.tensors._open_shard):
        assert not any(shard() for shard in opened), "the one before is still open"
        shard = open_shard(path)
        opened.append(weakref.ref(shard))
        return shard

    monkeypatch.setattr(convert.tensors, "_open_shard", open_shard)
    tensors = open_tensors(tmp_path)
    assert [tensors.read(name).tolist() for name in tensors.infos] == [[1, 1], [1, 1]]
    assert len(opened) == 4
    tensors.close()
    assert not any(shard() for shard in opened)
    assert tensors.read("1").tolist() == [1, 1]


def test_a_pickle_without_torch_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"")
    extra = "is a PyTorch pickle; reading it needs the torch extra: pip install 'mm1-mlx[torch]'"
    assert refusal(tmp_path) == f"{path} {extra}"


def test_safetensors_need_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    write(tmp_path / "model.safetensors", "a")
    assert same(open_tensors(tmp_path).read("a"), arrays("a")["a"])
