"""Write a model folder, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import make_shards

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.writing import new_folder
from mm1_mlx.model.mm1 import MM1

COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "vocab.json"),
    *("added_tokens.json", "merges.txt", "chat_template.jinja", "generation_config.json", "README.md"),
)


def save(
    model: MM1,
    path: str | Path,
    *,
    companions: str | Path,
    dtype: mx.Dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``model`` as a folder that ``load`` reads back bit for bit.

    Args:
        model: what to save.
        path: the folder to make.
        companions: a folder whose tokenizer, chat template and model card go along.
        dtype: the stored type of floating-point weights; None keeps theirs.
        overwrite: replace ``path`` where it exists.

    Raises:
        CheckpointError: ``path`` exists, or ``companions`` holds no tokenizer.
    """
    companions = Path(companions)
    if not any((companions / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(f"{companions} holds no tokenizer.json or tokenizer.model.")
    with new_folder(Path(path), overwrite=overwrite) as folder:
        _write_weights(model, folder, dtype)
        config = json.dumps(model.config.to_dict(), indent=2) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")
        for source in companions.iterdir():
            if source.name in COMPANIONS or source.name.startswith("LICENSE"):
                shutil.copyfile(source, folder / source.name)


def _write_weights(model: MM1, folder: Path, dtype: mx.Dtype | None) -> None:
    """``model*.safetensors`` in shards, with the index that names each tensor's shard."""
    weights = {
        key: value.astype(dtype) if dtype is not None and mx.issubdtype(value.dtype, mx.floating) else value
        for key, value in tree_flatten(model.parameters())
    }
    shards = make_shards(weights)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        mx.save_safetensors(str(folder / name), shard, metadata={"format": "mlx"})
        index |= dict.fromkeys(shard, name)
    total = {"total_size": sum(value.nbytes for value in weights.values())}
    text = json.dumps({"metadata": total, "weight_map": dict(sorted(index.items()))}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
