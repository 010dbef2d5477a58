"""The tensors of a PyTorch checkpoint by name, read one at a time so that memory stays bounded."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.tensor_files import some

# Safetensors before pickles, Hugging Face before open_clip; a pattern that starts with * is a guess, so it
# comes last and may match one file only.
PATTERNS = (
    *("model.safetensors.index.json", "model*.safetensors", "open_clip_model.safetensors"),
    *("pytorch_model.bin.index.json", "pytorch_model*.bin", "open_clip_pytorch_model.bin"),
    *("*.safetensors", "*.pt", "*.pth"),
)
NOT_WEIGHTS = (".*", "adapter*", "training_args.bin", "optimizer*", "scheduler*", "rng_state*")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
NESTS = ("state_dict", "model", "module")  # where training code puts the weights beside other state
DTYPES = {
    **{"BOOL": mx.bool_, "U8": mx.uint8, "U16": mx.uint16, "U32": mx.uint32, "U64": mx.uint64},
    **{"I8": mx.int8, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64, "C64": mx.complex64},
    **{"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32, "F64": mx.float64},
}
TORCH_DTYPES = {str(dtype).replace("mlx.core", "torch"): dtype for dtype in DTYPES.values()}
WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format
AGAIN = "download it again."


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: mx.Dtype  # once read: float32 where float64 is stored
    shard: Path

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in memory."""
        return math.prod(self.shape) * self.dtype.size


class Tensors:
    """A checkpoint's tensors by name. Reading one does not read its shard.

    One shard is open at a time, so reading in the order of ``infos`` opens each once. A pickle that
    ``torch.save`` wrote in its old format, before PyTorch 1.6, cannot be mapped: its shard is in memory while
    it is open.

    Attributes:
        infos: what each tensor is, shard after shard, without the "module." that all names of a checkpoint
            saved from ``DistributedDataParallel`` start with.
        shards: the files that hold them.
    """

    def __init__(self, shards: list[Path], weight_map: dict[str, str] | None = None) -> None:
        self.shards = shards
        self._shard: _Safetensors | _Pickle | None = None
        infos: dict[str, TensorInfo] = {}
        for path in shards:
            for name, info in self._open(path).infos.items():
                if weight_map is not None and weight_map.get(name) != path.name:
                    continue
                if name in infos:
                    raise CheckpointError(
                        f"{infos[name].shard} and {path} both hold {name}, expected it once; "
                        "give the one file to convert, or remove the other."
                    )
                infos[name] = info
        for name, shard in (weight_map or {}).items():
            if name not in infos:
                path = shards[0].with_name(shard)
                raise CheckpointError(f"{path} lacks {name}, which the index places there; {AGAIN}")
        if not infos:
            raise CheckpointError(f"{shards[0]} holds no tensors; give a checkpoint with weights.")
        self._prefix = "module." if all(name.startswith("module.") for name in infos) else ""
        self.infos = {name.removeprefix(self._prefix): info for name, info in infos.items()}

    def read(self, name: str) -> mx.array:
        """The tensor called ``name``, evaluated, in the stored dtype; float64, which GPUs lack, as float32.

        Raises:
            CheckpointError: there is no such tensor, or its shard can no longer be read.
        """
        if name not in self.infos:
            raise CheckpointError(f"{self.shards[0].parent} holds no tensor {name}.")
        return self._open(self.infos[name].shard).read(self._prefix + name)

    def close(self) -> None:
        """Let go of the open shard and its memory map; reading opens it again."""
        self._shard = None

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, path: Path) -> _Safetensors | _Pickle:
        if self._shard is None or self._shard.path != path:
            self.close()  # before the next one takes its memory
            self._shard = _open_shard(path)
        return self._shard


def open_tensors(folder: str | Path, *, names: Sequence[str] = PATTERNS) -> Tensors:
    """Find the weights of a checkpoint, and what tensors they hold, without reading these.

    An index decides which shards are read and which tensors of each; whatever else lies there is ignored.

    Args:
        folder: where to look; or one file, an index included.
        names: patterns of file names; those that match the first one with any match are the checkpoint.

    Raises:
        CheckpointError: there are no weights, or they are incomplete, damaged or more than tensors.
    """
    shards = _find(Path(folder), names)
    if shards[0].suffix != ".json":
        _require_all(shards)
        return Tensors(shards)
    weight_map = _read_index(shards[0])
    return Tensors([shards[0].with_name(name) for name in sorted(set(weight_map.values()))], weight_map)


def _require_all(shards: list[Path]) -> None:
    """Refuse numbered shards without an index where their own names say that one is missing."""
    for path in shards:
        numbers = re.fullmatch(r"(.*-)(\d+)-of-(\d+)(\.\w+)", path.name)
        if numbers is None:
            continue
        stem, number, total, end = numbers.groups()
        for other in range(1, int(total) + 1):
            name = f"{stem}{other:0{len(number)}d}-of-{total}{end}"
            if path.with_name(name) not in shards:
                raise CheckpointError(f"{path} is one of {int(total)} shards, but {name} is missing; {AGAIN}")


def _find(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of the first pattern that matches any."""
    with _readable(folder):
        if folder.is_file():
            return [folder]
        present = sorted(path for path in folder.iterdir() if path.is_file())
    for pattern in names:
        found = [path for path in present if fnmatchcase(path.name, pattern)]
        if pattern.startswith("*"):
            found = [path for path in found if not any(fnmatchcase(path.name, skip) for skip in NOT_WEIGHTS)]
            if len(found) > 1:
                raise CheckpointError(
                    f"{folder} holds {len(found)} files like {pattern} ({some(path.name for path in found)}), expected one; "
                    "give the one to convert."
                )
        if found:
            return found
    raise CheckpointError(f"{folder} holds no weights; looked for {', '.join(names)}.")


def _read_index(path: Path) -> dict[str, str]:
    """The shard of each tensor; every shard is there."""
    try:
        with _readable(path), path.open("rb") as file:
            index = json.load(file)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); {AGAIN}") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not (isinstance(weight_map, dict) and weight_map):
        raise CheckpointError(f"{path} has no weight_map that names the shard of each tensor; {AGAIN}")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path("folder", shard).name != shard:
            raise CheckpointError(f"{path} places {name} in {shard!r}, expected a file beside the index.")
    shards = sorted(set(weight_map.values()))
    with _readable(path.parent):
        absent = [shard for shard in shards if not path.with_name(shard).is_file()]
    if absent:
        raise CheckpointError(
            f"{path} names {path.with_name(absent[0])}, which is missing"
            f"{f', and {len(absent) - 1} more' if len(absent) > 1 else ''}; download what is missing."
        )
    return weight_map


def _open_shard(path: Path) -> _Safetensors | _Pickle:
    if path.suffix == ".safetensors":
        return _Safetensors(path)
    if path.suffix in PICKLES:
        return _Pickle(path)
    raise CheckpointError(f"{path} is no file of weights, expected .safetensors or {', '.join(PICKLES)}.")


class _Safetensors:
    """A safetensors file, its header checked against its size, so that damage shows before anything is read.

    Source: the format's description, https://huggingface.co/docs/safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored: dict[str, tuple[mx.Dtype, int]] = {}  # the dtype in the file and the place there
        self.infos: dict[str, TensorInfo] = {}
        header, start, size = self._read_header()
        header.pop("__metadata__", None)
        end = start
        for name, entry in sorted(header.items(), key=self._offsets):
            dtype, shape = self._check(name, entry)
            begin, end = end, end + math.prod(shape) * dtype.size
            if [begin - start, end - start] != entry["data_offsets"]:
                raise CheckpointError(
                    f"{path}: {name} is {dtype} of shape {shape} and lies at {entry['data_offsets']}, "
                    f"expected {[begin - start, end - start]}; {AGAIN}"
                )
            self._stored[name] = dtype, begin
            self.infos[name] = TensorInfo(shape, _in_memory(dtype), path)
        if end != size:
            raise CheckpointError(f"{path} has {size} bytes, expected {end} for its tensors; {AGAIN}")

    def read(self, name: str) -> mx.array:
        dtype, begin = self._stored[name]
        words = mx.zeros(self.infos[name].shape, WORDS[dtype.size], stream=mx.cpu)
        mx.eval(words)
        with _readable(self.path), self.path.open("rb") as file:
            file.seek(begin)
            found = file.readinto(words)  # straight into the array: no second copy at any time
        if found != words.nbytes:
            raise CheckpointError(
                f"{self.path} ended after {found} of the {words.nbytes} bytes of {name}; {AGAIN}"
            )
        return _from_words(words, dtype)

    def _read_header(self) -> tuple[dict[str, Any], int, int]:
        """The header, where the data start, and the size of the file."""
        with _readable(self.path), self.path.open("rb") as file:
            size = self.path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{self.path} has {size} bytes and claims a header of {length}, so it is cut short or "
                    f"not in the safetensors format; {AGAIN}"
                )
            text = file.read(length)
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path}: the header is not valid JSON ({error}); {AGAIN}") from None
        if not isinstance(header, dict):
            raise CheckpointError(f"{self.path}: the header is not a table of tensors; {AGAIN}")
        return header, 8 + length, size

    def _offsets(self, item: tuple[str, Any]) -> list[int]:
        name, entry = item
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not _are_counts(offsets) or len(offsets) != 2:
            raise CheckpointError(
                f"{self.path}: {name} lies at {offsets!r}, expected its first and last byte; {AGAIN}"
            )
        return offsets

    def _check(self, name: str, entry: dict[str, Any]) -> tuple[mx.Dtype, tuple[int, ...]]:
        shape, code = entry.get("shape"), entry.get("dtype")
        if not _are_counts(shape) or any(count >= 2**31 for count in shape):
            raise CheckpointError(f"{self.path}: {name} has the shape {shape!r}, expected numbers; {AGAIN}")
        if not isinstance(code, str) or code not in DTYPES:
            raise _unsupported(self.path, name, code)
        return DTYPES[code], tuple(shape)


class _Pickle:
    """A state dict that ``torch.save`` wrote, mapped where its format allows; nothing in it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            size = path.stat().st_size
        self._tensors = self._unwrap(self._load())
        self.infos: dict[str, TensorInfo] = {}
        for name, tensor in self._tensors.items():
            if not _is_tensor(tensor):
                kind = type(tensor).__name__
                raise CheckpointError(
                    f"{path}: {name} is a {kind}, expected a tensor; save the weights alone."
                )
            dtype = TORCH_DTYPES.get(str(tensor.dtype))
            dense = str(tensor.layout) == "torch.strided" and not (tensor.is_nested or tensor.is_meta)
            if dtype is None or not dense or tensor.is_conj():
                raise _unsupported(path, name, tensor.dtype if dense else f"{tensor.dtype} that is not dense")
            if tensor.nbytes > size:  # an expanded view, which reading would write out
                raise CheckpointError(
                    f"{path}: {name} takes {tensor.nbytes} bytes, but the file has {size}; save it contiguous."
                )
            self.infos[name] = TensorInfo(tuple(tensor.shape), _in_memory(dtype), path)

    def read(self, name: str) -> mx.array:
        import torch

        tensor = self._tensors[name]
        words = tensor.view(getattr(torch, f"int{8 * tensor.itemsize}"))  # NumPy has no bfloat16
        return _from_words(mx.array(words.numpy()), TORCH_DTYPES[str(tensor.dtype)])

    def _load(self) -> Any:
        try:
            import torch
        except ImportError:
            raise CheckpointError(
                f"{self.path} is a PyTorch pickle; reading it needs the torch extra: pip install 'mm1-mlx[torch]'"
            ) from None
        with _readable(self.path), self.path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # else the old format, which cannot be mapped
        try:
            with warnings.catch_warnings(action="ignore"):  # of what it then refuses
                return torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_zip)
        except Exception as error:  # torch raises whatever a broken file provokes, with advice not to pass on
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
        """The state dict, be it the whole file or one of its entries."""
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


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tell in the user's words that ``path`` cannot be read."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _in_memory(dtype: mx.Dtype) -> mx.Dtype:
    return mx.float32 if dtype == mx.float64 else dtype


def _from_words(words: mx.array, dtype: mx.Dtype) -> mx.array:
    """The bits of ``words`` as ``dtype``, on the CPU, where float64 exists."""
    tensor = words.view(dtype, stream=mx.cpu).astype(_in_memory(dtype), stream=mx.cpu)
    mx.eval(tensor)
    return tensor


def _unsupported(path: Path, name: str, dtype: Any) -> CheckpointError:
    return CheckpointError(f"{path}: {name} holds {dtype}, which MLX lacks; save it as BF16, F16 or F32.")
