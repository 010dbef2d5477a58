"""Read the tensors of a PyTorch checkpoint one at a time, so that memory stays bounded."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.tensor_files import (
    DTYPES,
    Form,
    TensorFile,
    convert_words,
    loaded_dtype,
    report_unreadable,
    unsupported_dtype_error,
)
from mm1_mlx.files.weight_files import WEIGHTS, list_shards, read_index, require_whole_set
from mm1_mlx.files.weights import list_some

# Safetensors come before pickles, and Hugging Face's names before open_clip's. A pattern that starts with * is a guess,
# so it comes last and may match only one file.
PATTERNS = (
    "model.safetensors.index.json",
    WEIGHTS,
    "open_clip_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model*.bin",
    "open_clip_pytorch_model.bin",
    "*.safetensors",
    "*.pt",
    "*.pth",
)
NOT_WEIGHTS = (".*", "adapter*", "training_args.bin", "optimizer*", "scheduler*", "rng_state*")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
NESTS = (
    "state_dict",
    "model",
    "module",
)  # keys under which training code stores the weights beside other state
TORCH_DTYPES = {str(dtype).replace("mlx.core", "torch"): dtype for dtype in DTYPES.values()}
AGAIN = "download it again."


@dataclass(frozen=True)
class TensorInfo:
    """The shape, type and shard of a tensor, which are known before it is read."""

    shape: tuple[int, ...]
    dtype: mx.Dtype  # once read: float32 where float64 is stored
    shard: Path

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in memory."""
        return Form(self.shape, self.dtype).nbytes


class Tensors:
    """A checkpoint's tensors by name; reading one does not read its whole shard.

    One shard is open at a time, so reading in the order of ``infos`` opens each once. A pickle that
    ``torch.save`` wrote in its old format, before PyTorch 1.6, cannot be mapped: its shard is in memory while
    it is open.

    Attributes:
        infos: shape, type and shard of each tensor, shard after shard; names lack the "module." that all names of
            a checkpoint saved from ``DistributedDataParallel`` start with.
        shards: the files that hold them.
    """

    def __init__(self, shards: list[Path], weight_map: dict[str, str] | None = None) -> None:
        self.shards = shards
        self._shard: TensorFile | _Pickle | None = None
        infos: dict[str, TensorInfo] = {}
        for path in shards:
            for name, form in self._open(path).forms.items():
                if weight_map is not None and weight_map.get(name) != path.name:
                    continue
                if name in infos:
                    raise CheckpointError(
                        f"{infos[name].shard} and {path} both hold {name}, expected it once; "
                        "give the one file to convert, or remove the other."
                    )
                infos[name] = TensorInfo(*form, shard=path)
        for name, shard in (weight_map or {}).items():
            if name not in infos:
                path = shards[0].with_name(shard)
                raise CheckpointError(f"{path} lacks {name}, which the index places there; {AGAIN}")
        if not infos:
            raise CheckpointError(f"{shards[0]} holds no tensors; give a checkpoint with weights.")
        self._prefix = "module." if all(name.startswith("module.") for name in infos) else ""
        self.infos = {name.removeprefix(self._prefix): info for name, info in infos.items()}

    def read(self, name: str) -> mx.array:
        """Return the tensor called ``name``, evaluated, in the stored type; float64, which GPUs lack, as float32.

        Raises:
            CheckpointError: there is no such tensor, or its shard can no longer be read.
        """
        if name not in self.infos:
            raise CheckpointError(f"{self.shards[0].parent} holds no tensor {name}.")
        return self._open(self.infos[name].shard).read(self._prefix + name)

    def close(self) -> None:
        """Release the open shard and its memory map; reading opens it again."""
        self._shard = None

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, path: Path) -> TensorFile | _Pickle:
        if self._shard is None or self._shard.path != path:
            self.close()  # frees its memory before the next one is opened
            self._shard = _open_shard(path)
        return self._shard


def open_tensors(folder: str | Path, *, names: Sequence[str] = PATTERNS) -> Tensors:
    """Find the weights of a checkpoint and list their tensors, without reading these.

    An index decides which shards are read and which tensors of each. A folder may hold no other weights of the kind
    that its index names; beside an index that is itself given, other files are ignored.

    Args:
        folder: where to look; or one file, which may be an index.
        names: patterns of file names; those that match the first one with any match are the checkpoint.

    Raises:
        CheckpointError: there are no weights, or they are incomplete, damaged or more than tensors.
    """
    shards = _find(Path(folder), names)
    if shards[0].suffix != ".json":
        require_whole_set(shards)
        return Tensors(shards)
    index, weight_map = shards[0], read_index(shards[0])
    if Path(folder).is_file():
        return Tensors([index.with_name(name) for name in sorted(set(weight_map.values()))], weight_map)
    return Tensors(list_shards(index, weight_map), weight_map)


def _find(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of the first pattern that matches any."""
    with report_unreadable(folder):
        if folder.is_file():
            return [folder]
        present = sorted(path for path in folder.iterdir() if path.is_file())
    for pattern in names:
        found = [path for path in present if fnmatchcase(path.name, pattern)]
        if pattern.startswith("*"):
            found = [path for path in found if not any(fnmatchcase(path.name, skip) for skip in NOT_WEIGHTS)]
            if len(found) > 1:
                raise CheckpointError(
                    f"{folder} holds {len(found)} files like {pattern} ({list_some(path.name for path in found)}), expected one; "
                    "give the one to convert."
                )
        if found:
            return found
    raise CheckpointError(f"{folder} holds no weights; looked for {', '.join(names)}.")


def _open_shard(path: Path) -> TensorFile | _Pickle:
    if path.suffix == ".safetensors":
        return TensorFile(path, again=AGAIN)
    if path.suffix in PICKLES:
        return _Pickle(path)
    raise CheckpointError(f"{path} is no file of weights, expected .safetensors or {', '.join(PICKLES)}.")


class _Pickle:
    """A state dict that ``torch.save`` wrote, memory-mapped if its format allows it; none of its code is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with report_unreadable(path):
            size = path.stat().st_size
        self._tensors = self._unwrap(self._load())
        self.forms: dict[str, Form] = {}
        for name, tensor in self._tensors.items():
            if not _is_tensor(tensor):
                kind = type(tensor).__name__
                raise CheckpointError(
                    f"{path}: {name} is a {kind}, expected a tensor; save the weights alone."
                )
            dtype = TORCH_DTYPES.get(str(tensor.dtype))
            dense = str(tensor.layout) == "torch.strided" and not (tensor.is_nested or tensor.is_meta)
            if dtype is None or not dense or tensor.is_conj():
                raise unsupported_dtype_error(
                    path, name, tensor.dtype if dense else f"{tensor.dtype} that is not dense"
                )
            if tensor.nbytes > size:  # an expanded view, which would take more memory once read
                raise CheckpointError(
                    f"{path}: {name} takes {tensor.nbytes} bytes, but the file has {size}; save it contiguous."
                )
            self.forms[name] = Form(tuple(tensor.shape), loaded_dtype(dtype))

    def read(self, name: str) -> mx.array:
        import torch

        tensor = self._tensors[name]
        words = tensor.view(getattr(torch, f"int{8 * tensor.itemsize}"))  # NumPy has no bfloat16
        return convert_words(mx.array(words.numpy()), TORCH_DTYPES[str(tensor.dtype)])

    def _load(self) -> Any:
        try:
            import torch
        except ImportError:
            raise CheckpointError(
                f"{self.path} is a PyTorch pickle; reading it needs the torch extra: pip install 'mm1-mlx[torch]'"
            ) from None
        with report_unreadable(self.path), self.path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # the old format cannot be mapped
        try:
            with warnings.catch_warnings(action="ignore"):  # torch warns before it refuses a file
                return torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_zip)
        except Exception as error:  # torch raises many kinds of errors, with advice that does not apply here
            reason = str(error).split(". ")[0].strip() or type(error).__name__
            objects = re.search(r"GLOBAL ([\w.]+)|TorchScript", str(error))
        if objects:
            raise CheckpointError(
                f"{self.path} holds more than tensors ({objects[1] or objects[0]}), which may run code; nothing "
                "was executed. Save the weights alone, best as safetensors."
            )
        raise CheckpointError(
            f"{self.path} is damaged or not a checkpoint of tensors ({reason}); nothing was executed. "
            "Download it again."
        )

    def _unwrap(self, loaded: Any) -> dict[str, Any]:
        """Return the state dict, which may be the whole file or one of its entries."""
        if not isinstance(loaded, dict):
            raise CheckpointError(f"{self.path} holds a {type(loaded).__name__}, expected a dict of tensors.")
        nests = [
            name
            for name in NESTS
            if isinstance(loaded.get(name), dict) and any(map(_is_tensor, loaded[name].values()))
        ]
        if len(nests) > 1:
            raise CheckpointError(f"{self.path} holds {' and '.join(nests)}, expected one; save one alone.")
        state = loaded[nests[0]] if nests else loaded
        return {str(name): tensor for name, tensor in state.items()}


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
