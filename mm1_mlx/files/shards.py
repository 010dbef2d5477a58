"""Write a model's tensors to one file or several, with the index that names each tensor's file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import mlx.core as mx

from mm1_mlx.files.json_files import write_json
from mm1_mlx.files.tensor_files import Form, write_tensors

MAX_SHARD = 5_000_000_000  # bytes, as mlx-lm writes them
INDEX = "model.safetensors.index.json"


def write_shards(
    folder: Path,
    forms: Mapping[str, Form],
    tensors: Iterable[tuple[str, mx.array]],
    *,
    max_shard: int = MAX_SHARD,
) -> None:
    """Write ``model*.safetensors`` files and their index, with only one tensor in memory at a time.

    Args:
        folder: where the files go.
        forms: shape and type of each tensor, by name.
        tensors: names and tensors, in the same order.
        max_shard: bytes of tensors in one file, where it holds more than one.

    Raises:
        OSError: a file cannot be written.
        ValueError: a tensor does not have its announced form, or the order differs.
    """
    coming, shards = iter(tensors), split_shards(forms, max_shard)
    for name, own in shards.items():
        write_tensors(folder / name, own, _check_order(own, coming))
    index = {tensor: name for name, own in shards.items() for tensor in own}
    total = {"total_size": sum(form.nbytes for form in forms.values())}
    write_json(folder / INDEX, {"metadata": total, "weight_map": dict(sorted(index.items()))})


def split_shards(forms: Mapping[str, Form], max_shard: int = MAX_SHARD) -> dict[str, dict[str, Form]]:
    """Return the files to write, by name: each gets consecutive tensors of at most ``max_shard`` bytes, or one larger
    tensor.
    """
    shards: list[dict[str, Form]] = [{}]
    size = 0
    for name, form in forms.items():
        if shards[-1] and size + form.nbytes > max_shard:
            shards.append({})
            size = 0
        shards[-1][name] = form
        size += form.nbytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    total = len(shards)
    return {f"model-{number:05d}-of-{total:05d}.safetensors": own for number, own in enumerate(shards, 1)}


def _check_order(names: Iterable[str], tensors: Iterator[tuple[str, mx.array]]) -> Iterator[mx.array]:
    """Yield the tensors without their names, which must come in the order of ``names``."""
    for expected in names:
        name, tensor = next(tensors)
        if name != expected:
            raise ValueError(f"{name} came in the place of {expected}.")
        yield tensor
        del tensor  # before the next one is made
