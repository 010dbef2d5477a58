"""Write a model folder that appears complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from mm1_mlx.arrays import flatten
from mm1_mlx.checkpoint.chat_template import FILE, find_chat_template
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_files import write_json
from mm1_mlx.files.shards import write_shards
from mm1_mlx.files.tensor_files import Form
from mm1_mlx.files.writing import new_folder
from mm1_mlx.model.mm1 import MM1

KIND = ("config.json", "model*.safetensors")  # what a folder must have to be replaced
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "vocab.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def save(
    model: MM1,
    path: str | Path,
    *,
    companions: str | Path,
    dtype: mx.Dtype | Mapping[str, mx.Dtype] | None = None,
    overwrite: bool = False,
    weights: Mapping[str, mx.array] | None = None,
    card: str | None = None,
) -> None:
    """Write ``model`` as a folder that ``load`` reads back bit for bit.

    Args:
        model: what to save.
        path: the folder to make.
        companions: a folder whose tokenizer, chat template and licence are copied; its card is of another model.
        dtype: the stored type of floating-point weights, of all or of each by its key; None keeps their type.
        overwrite: replace ``path`` where it exists.
        weights: all weights by key, where the model holds only a part of each; None takes the model's own.
        card: text of the folder's README.md; by default there is none.

    Raises:
        CheckpointError: ``path`` exists, or holds no model to replace, or ``companions`` holds no tokenizer.
        OSError: the folder cannot be written.
    """
    companions = Path(companions)
    if not any((companions / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(f"{companions} holds no tokenizer.json or tokenizer.model.")
    made = cast_weights(flatten(model.parameters()) if weights is None else weights, dtype)
    forms = {key: Form(value.shape, value.dtype) for key, value in made.items()}
    with new_folder(Path(path), overwrite=overwrite, kind=KIND) as folder:
        write_shards(folder, forms, ((key, made.pop(key)) for key in forms))
        write_json(folder / "config.json", model.config.to_dict())
        for source in companions.iterdir():
            if source.name in COMPANIONS or source.name.startswith("LICENSE"):
                shutil.copyfile(source, folder / source.name)
        if (template := find_chat_template(companions)) is not None:
            (folder / FILE).write_text(template, encoding="utf-8")
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")


def cast_weights(
    weights: Mapping[str, mx.array], dtype: mx.Dtype | Mapping[str, mx.Dtype] | None
) -> dict[str, mx.array]:
    """Return weights in the type to store them in; those that are no floating-point numbers stay as they are.

    Args:
        weights: by key.
        dtype: one type for all, or one for each key; a key without one keeps its type, as all do for None.
    """
    types = dtype if isinstance(dtype, Mapping) else dict.fromkeys(weights, dtype)
    return {
        key: value.astype(to) if (to := types.get(key)) and mx.issubdtype(value.dtype, mx.floating) else value
        for key, value in weights.items()
    }
