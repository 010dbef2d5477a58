"""Write the weights of a model folder from a recipe: checked first, then streamed tensor by tensor."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mm1_mlx.arrays import flatten
from mm1_mlx.checkpoint.quantize import Packing, packing_plan
from mm1_mlx.checkpoint.sizes import build_model
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.shards import write_shards
from mm1_mlx.files.tensor_files import Form
from mm1_mlx.files.weights import list_some
from mm1_mlx.model.mm1 import count_parameters

from .recipe import Part, Recipe

ROOM = 50_000_000  # bytes for other files than the weights: tokenizer, configuration, card
Progress = Callable[[str, list[str]], Iterable[str]]


@dataclass(frozen=True)
class Plan:
    """What will be written, in order, and how it is packed."""

    recipe: Recipe
    forms: dict[str, Form]
    dtype: mx.Dtype | None  # type of floating-point tensors; None keeps the stored one
    packing: dict[str, dict]  # arguments of ``mx.quantize`` by module path
    num_weights: int  # how many numbers the unpacked model has
    fills: dict[str, float]  # what fills keys that no tensor has; they are written last

    @property
    def nbytes(self) -> int:
        return sum(form.nbytes for form in self.forms.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for each number of the unpacked model."""
        return 8 * self.nbytes / self.num_weights


def make_plan(recipe: Recipe, *, dtype: mx.Dtype | None = None, packing: Packing | None = None) -> Plan:
    """Check every key and shape of the source against the model, and plan what will be written.

    Raises:
        CheckpointError: a key is unknown or missing, or a tensor does not fit the configuration.
        ConfigError: nothing can be packed as asked.
    """
    shapes = {name: info.shape for part in recipe.parts for name, info in part.tensors.infos.items()}
    model = build_model(
        recipe.config, shapes, "config.json"
    )  # only its shapes are used; no number is computed
    expected = {key: value.shape for key, value in flatten(model.parameters()).items()}
    plan = packing_plan(model, packing) if packing else {}
    stored = [info.dtype for part in recipe.parts for info in part.tensors.infos.values()]
    if packing and dtype is None and mx.float32 in stored:
        dtype = mx.float16
    forms: dict[str, Form] = {}
    waiting = dict(expected)
    for part in recipe.parts:
        folder = next(iter(part.tensors.shards), Path("the decoder")).parent
        part.table.check(part.tensors.infos, folder)
        _require_whole(part, folder)
        for name, key, value in _moves(part, lambda name, part=part: _blank(part, name)):
            if waiting.pop(key, None) != value.shape:
                raise CheckpointError(
                    f"{folder}: {name} is {part.tensors.infos[name].shape}, which gives {key} {value.shape}, but "
                    f"config.json asks for {expected.get(key, 'none')}: it belongs to another model."
                )
            forms |= {k: Form(v.shape, v.dtype) for k, v in _pack_tensor(key, value, dtype, plan)}
    fills = {key: number for key, number in _absent(recipe).items() if key in waiting}
    missing = [key for key in waiting if key not in fills]
    if missing:
        raise CheckpointError(f"the checkpoint has nothing for {list_some(missing)}.")
    filled = dtype or next((d for d in stored if mx.issubdtype(d, mx.floating)), mx.float32)
    forms |= {key: Form(expected[key], filled) for key in fills}
    return Plan(recipe, forms, dtype, plan, count_parameters(model), fills)


def _require_whole(part: Part, folder: Path) -> None:
    """Refuse tensors that do not hold floating-point numbers, or a part of which would be lost."""
    for name, info in part.tensors.infos.items():
        if name not in part.table.moves:
            continue
        if not mx.issubdtype(info.dtype, mx.floating):
            raise CheckpointError(f"{folder}: {name} holds {info.dtype}, expected floating-point weights.")
        if not part.table.moves[name].transform.fits(info.shape):
            raise CheckpointError(
                f"{folder}: {name} is {info.shape}, which does not fit; its config.json belongs to another model."
            )


def _absent(recipe: Recipe) -> dict[str, float]:
    """Return what fills those of our keys whose source tensor may be absent and is."""
    return {
        key: number
        for part in recipe.parts
        for name, number in part.table.absent.items()
        if name not in part.tensors.infos
        for key in part.table.moves[name].targets
    }


def write_weights(plan: Plan, folder: Path, progress: Progress) -> None:
    """Stream all tensors of ``plan`` into ``folder``.

    Args:
        plan: from ``make_plan``.
        folder: where the shards go.
        progress: takes the name of a shard and those of its tensors, and yields the latter while it shows progress.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    write_shards(folder, plan.forms, _tensors(plan, progress))


def _tensors(plan: Plan, progress: Progress) -> Iterator[tuple[str, mx.array]]:
    """Yield the tensors of ``plan`` as they are stored, in its order."""
    for part in plan.recipe.parts:
        for name, key, value in _moves(part, part.tensors.read, progress):
            if not mx.all(mx.isfinite(value)).item():
                raise CheckpointError(f"{name} holds NaN or infinity: the checkpoint is damaged.")
            yield from _pack_tensor(key, value, plan.dtype, plan.packing)
    for key, number in plan.fills.items():
        yield key, mx.full(plan.forms[key].shape, number, dtype=plan.forms[key].dtype)


def require_disk_space(folder: Path, nbytes: int) -> None:
    """Refuse to start writing more than the disk has room for.

    Raises:
        CheckpointError: fewer than ``nbytes`` and ``ROOM`` bytes are free where ``folder`` is, or will be.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < nbytes + ROOM:
        raise CheckpointError(
            f"{folder} has {free / 1e9:.1f} GB free, but the model needs {(nbytes + ROOM) / 1e9:.1f} GB."
        )


def _moves(
    part: Part, read: Callable[[str], mx.array], progress: Progress = lambda shard, names: names
) -> Iterator[tuple[str, str, mx.array]]:
    """Yield source name, our key and value of every tensor that is moved, shard by shard."""
    infos = part.tensors.infos
    by_shard: dict[Path, list[str]] = {}
    for name in infos:
        if name in part.table.moves:
            by_shard.setdefault(infos[name].shard, []).append(name)
    for shard, names in by_shard.items():
        for name in progress(shard.name, names):
            move = part.table.moves[name]
            yield from (
                (name, key, value)
                for key, value in zip(move.targets, move.transform.there(read(name)), strict=True)
            )


def _blank(part: Part, name: str) -> mx.array:
    """Return an array of a tensor's shape and type; its zeros are never computed."""
    info = part.tensors.infos[name]
    return mx.zeros(info.shape, info.dtype)


def _pack_tensor(
    key: str, value: mx.array, dtype: mx.Dtype | None, plan: dict[str, dict]
) -> list[tuple[str, mx.array]]:
    """Return one tensor as it is stored: cast, or packed to weight, scales and biases."""
    if dtype is not None and mx.issubdtype(value.dtype, mx.floating):
        value = value.astype(dtype)
    path, _, name = key.rpartition(".")
    if name != "weight" or path not in plan:
        return [(key, value)]
    packed = mx.quantize(value, **plan[path])
    return [(f"{path}.{n}", v) for n, v in zip(("weight", "scales", "biases"), packed, strict=False)]
