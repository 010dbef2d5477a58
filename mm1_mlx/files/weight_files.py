"""Find the files of a model's weights: those that its index lists, no fewer and no more."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import mlx.core as mx

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_files import parse_json
from mm1_mlx.files.shards import INDEX
from mm1_mlx.files.tensor_files import read_tensors, report_unreadable
from mm1_mlx.files.weights import list_some

WEIGHTS = "model*.safetensors"
AGAIN = "download or convert it again."


def read_weights(folder: Path) -> dict[str, mx.array]:
    """Return the weights of a model folder by name, each read when it is first computed with.

    Raises:
        CheckpointError: the weights are absent or damaged, or other files or tensors than those of the index.
    """
    shards, weight_map = find_weights(folder)
    weights: dict[str, mx.array] = {}
    for shard in shards:
        found = read_tensors(shard, again=AGAIN)
        if weight_map is None:
            _require_once(found, weights, shard)
        else:
            found = _require_listed(found, weight_map, shard)
        weights |= found
    return weights


def find_weights(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the weight files of a folder, and what its index says; None where it has no index.

    Raises:
        CheckpointError: there are no weights, some of a numbered set are missing, or the index and the files beside
            it differ.
    """
    with report_unreadable(folder):
        present = sorted(path for path in folder.iterdir() if fnmatchcase(path.name, WEIGHTS))
    if (folder / INDEX).exists():
        weight_map = read_index(folder / INDEX)
        return list_shards(folder / INDEX, weight_map), weight_map
    if not present:
        raise CheckpointError(f"{folder} has no {WEIGHTS}; the weights are missing.")
    require_whole_set(present)
    return present, None


def read_index(path: Path) -> dict[str, str]:
    """Return the shard of each tensor; every shard must exist.

    Raises:
        CheckpointError: the index is damaged, points elsewhere, or names a file that is missing.
    """
    weight_map = parse_index(path)
    shards = sorted(set(weight_map.values()))
    with report_unreadable(path.parent):
        absent = [shard for shard in shards if not path.with_name(shard).is_file()]
    if absent:
        raise CheckpointError(
            f"{path} names {path.with_name(absent[0])}, which is missing"
            f"{f', and {len(absent) - 1} more' if len(absent) > 1 else ''}; download what is missing."
        )
    return weight_map


def parse_index(path: Path) -> dict[str, str]:
    """Return the shard of each tensor, whether the shards are there or not.

    Raises:
        CheckpointError: the index is damaged, or points elsewhere.
    """
    index = parse_json(path, f"{path} is not there.")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not (isinstance(weight_map, dict) and weight_map):
        raise CheckpointError(f"{path} has no weight_map that names the shard of each tensor; {AGAIN}")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path("folder", shard).name != shard:
            raise CheckpointError(f"{path} places {name} in {shard!r}, expected a file beside the index.")
    return weight_map


def list_shards(index: Path, weight_map: Mapping[str, str]) -> list[Path]:
    """Return the files that an index names; the folder must hold no other weights of this kind.

    Which weights are right cannot be known where a file of another save or download lies among them.

    Raises:
        CheckpointError: the folder holds such a file.
    """
    shards = [index.with_name(name) for name in sorted(set(weight_map.values()))]
    stem, _, ending = index.name.removesuffix(".index.json").rpartition(".")
    with report_unreadable(index.parent):
        names = [path.name for path in index.parent.iterdir()]
    stray = [
        name for name in names if fnmatchcase(name, f"{stem}*.{ending}") and name not in weight_map.values()
    ]
    if stray:
        raise CheckpointError(
            f"{index.parent} holds {list_some(stray)}, which {index.name} does not list; remove what belongs to "
            f"another model, or {AGAIN}"
        )
    return shards


def require_whole_set(shards: Sequence[Path]) -> None:
    """Refuse numbered shards without an index if their own names show that one is missing.

    Raises:
        CheckpointError: a shard is missing.
    """
    for path in shards:
        numbers = re.fullmatch(r"(.*-)(\d+)-of-(\d+)(\.\w+)", path.name)
        if numbers is None:
            continue
        stem, number, total, end = numbers.groups()
        for other in range(1, int(total) + 1):
            name = f"{stem}{other:0{len(number)}d}-of-{total}{end}"
            if path.with_name(name) not in shards:
                raise CheckpointError(f"{path} is one of {int(total)} shards, but {name} is missing; {AGAIN}")


def _require_once(found: Mapping[str, mx.array], weights: Mapping[str, mx.array], shard: Path) -> None:
    """Refuse tensors of a file that another file held already."""
    twice = [name for name in found if name in weights]
    if twice:
        raise CheckpointError(
            f"{shard} holds {list_some(twice)}, which another {WEIGHTS} there holds too; remove the file that "
            "belongs to another model."
        )


def _require_listed(
    found: dict[str, mx.array], weight_map: Mapping[str, str], shard: Path
) -> dict[str, mx.array]:
    """Return the tensors that the index places in a file; it must hold them all, and none that is not listed."""
    missing = [name for name, place in weight_map.items() if place == shard.name and name not in found]
    if missing:
        raise CheckpointError(f"{shard} lacks {list_some(missing)}, which the index places there; {AGAIN}")
    unknown = [name for name in found if name not in weight_map]
    if unknown:
        raise CheckpointError(f"{shard} holds {list_some(unknown)}, which the index does not list; {AGAIN}")
    return {name: value for name, value in found.items() if weight_map[name] == shard.name}
