"""A file written tensor by tensor is one that MLX reads."""

import mlx.core as mx
import pytest

from mm1_mlx.files.tensor_files import NAMES, write_tensors

TENSORS = {
    "step": mx.array(7, dtype=mx.uint64),
    "packed": mx.arange(12, dtype=mx.uint32).reshape(3, 4),
    "turned": mx.random.normal((3, 5), key=mx.random.key(0)).T,
    "half": mx.array([1.5, -2.0], dtype=mx.float16),
    "brain": mx.array([[0.1], [3e38]], dtype=mx.bfloat16),
}


def forms(tensors):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "some.safetensors"
    write_tensors(path, forms(TENSORS), iter(TENSORS.values()))
    found = mx.load(str(path))
    assert forms(found) == forms(TENSORS) and {tensor.dtype for tensor in found.values()} == set(NAMES)
    assert all(mx.array_equal(found[name], tensor) for name, tensor in TENSORS.items())


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
