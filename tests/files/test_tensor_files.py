"""A file written tensor by tensor is one that MLX reads."""

import mlx.core as mx
import pytest

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.tensor_files import CODES, TensorFile, read_tensors, write_tensors

TENSORS = {
    "step": mx.array(7, dtype=mx.uint64),
    "packed": mx.arange(12, dtype=mx.uint32).reshape(3, 4),
    "turned": mx.random.normal((3, 5), key=mx.random.key(0)).T,
    "half": mx.array([1.5, -2.0], dtype=mx.float16),
    "brain": mx.array([[0.1], [3e38]], dtype=mx.bfloat16),
    "none": mx.zeros((3, 0)),
    **{str(dtype): mx.array([0, 1], dtype=dtype) for dtype in CODES if dtype != mx.float64},
}


def forms(tensors):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "some.safetensors"
    write_tensors(path, forms(TENSORS), iter(TENSORS.values()))
    found = mx.load(str(path))
    assert forms(found) == forms(TENSORS)
    assert {tensor.dtype for tensor in found.values()} == set(CODES) - {mx.float64}
    assert all(mx.array_equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_both_ways_of_reading_give_what_mlx_wrote(tmp_path):
    path = tmp_path / "some.safetensors"
    mx.save_safetensors(str(path), TENSORS)
    one_by_one, together = TensorFile(path, again="again."), read_tensors(path, again="again.")
    assert one_by_one.forms.keys() == together.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert mx.array_equal(one_by_one.read(name), tensor) and mx.array_equal(together[name], tensor)
        assert one_by_one.forms[name] == (tensor.shape, tensor.dtype)


@pytest.mark.parametrize("read", [TensorFile, read_tensors])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:50], lambda b: b + b"x", lambda b: b""])
def test_a_damaged_file_is_refused_before_anything_is_read(read, damage, tmp_path):
    path = tmp_path / "some.safetensors"
    mx.save_safetensors(str(path), TENSORS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        CheckpointError,
        match=r"some.safetensors is damaged or no safetensors file \(.*bytes\); copy it again\.$",
    ):
        read(path, again="copy it again.")


@pytest.mark.parametrize("read", [TensorFile, read_tensors])
def test_a_file_that_is_not_there_is_said(read, tmp_path):
    with pytest.raises(CheckpointError, match="some cannot be read: No such file or directory"):
        read(tmp_path / "some", again="")


def test_a_tensor_of_another_form_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"^a is \(3,\) mlx.core.float32, expected \(2,\) mlx.core.float16"):
        write_tensors(tmp_path / "some.safetensors", {"a": ((2,), mx.float16)}, [mx.zeros(3)])


def test_tensors_are_asked_for_one_after_the_other(tmp_path):
    path, sizes = tmp_path / "some.safetensors", []
    large = {name: mx.zeros(100_000) for name in "abc"}

    def made():
        for tensor in large.values():
            sizes.append(path.stat().st_size)
            yield tensor

    write_tensors(path, forms(large), made())
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError):
        write_tensors(tmp_path / "none" / "some.safetensors", {}, [])
