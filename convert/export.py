"""Write a model folder back to PyTorch's layout, under the names of the source it came from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.checkpoint.chat_template import FILE, find_chat_template
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.checkpoint.load import read_config
from mm1_mlx.checkpoint.save import COMPANIONS, KIND
from mm1_mlx.config import MM1Config
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_files import write_json
from mm1_mlx.files.shards import write_shards
from mm1_mlx.files.tensor_files import Form
from mm1_mlx.files.weights import list_some
from mm1_mlx.files.writing import new_folder

from .conversion import progress_bar, require_disk_space, require_other_folder
from .key_table import KeyTable
from .recipe import ORIGIN, PREPROCESSOR
from .source_config import read_json
from .sources import SOURCES, honeybee
from .tensors import Tensors, open_tensors

TAKEN_ALONG = {*COMPANIONS, PREPROCESSOR}


def export(folder: str | Path, output: str | Path, *, overwrite: bool = False) -> str:
    """Write ``folder``'s weights as safetensors in PyTorch's layout, and return in words what was written.

    A folder that came from a public checkpoint gets its layout back, bit for bit except for tensors that conversion
    dropped on purpose. A new model gets Honeybee's layout if its parts are CLIP, a C-Abstractor and Llama.

    Raises:
        CheckpointError: the folder is quantized, or its parts have no place in a public layout.
    """
    folder, output = find_folder(folder), Path(output)
    config = read_config(folder)
    if config.quantization is not None:
        raise CheckpointError(
            f"{folder} is quantized; PyTorch has no place for packed weights: export the original."
        )
    require_other_folder(folder, output)
    with open_tensors(folder) as tensors:
        name, parts = _layout(folder, config, tensors)
        require_disk_space(output.parent, sum(info.nbytes for info in tensors.infos.values()))
        with new_folder(output, overwrite=overwrite, kind=KIND) as temporary:
            for values, subfolder, table, names in parts:
                place = temporary / subfolder
                place.mkdir(exist_ok=True)
                write_json(place / "config.json", values)
                _write(table, names, tensors, place, label=f"{output.name}/{subfolder}".rstrip("/"))
            for path in folder.iterdir():
                if path.name in TAKEN_ALONG or path.name.startswith("LICENSE"):
                    shutil.copyfile(path, temporary / path.name)
            if (template := find_chat_template(folder)) is not None:
                (temporary / FILE).write_text(template, encoding="utf-8")
    return f"{output}: {name}; {len(parts)} {'folder' if len(parts) == 1 else 'folders'}"


def _layout(
    folder: Path, config: MM1Config, tensors: Tensors
) -> tuple[str, list[tuple[Mapping[str, Any], str, KeyTable, list[str]]]]:
    """Return the layout in words, and for each of its folders the configuration, name, key table and tensors' names."""
    origin = read_json(folder / ORIGIN).values if (folder / ORIGIN).exists() else {}
    module = SOURCES.get(origin.get("source", ""))
    if module is None or not hasattr(module, "tables"):
        values, table = honeybee.describe(config, tensors)
        kept = "honeybee's layout, with Honeybee's prompts and pictures stretched to a square: the model's own are lost"
        return kept, [(values, "", table, list(table.moves))]
    parts = origin["parts"]
    shapes = [{key: tuple(shape) for key, shape in part["shapes"].items()} for part in parts]
    tables = module.tables(config, shapes)
    return f"{origin['source']}'s layout", [
        (part["config"], part["subfolder"], table, list(own))
        for part, table, own in zip(parts, tables, shapes, strict=True)
    ]


def _write(table: KeyTable, names: list[str], tensors: Tensors, folder: Path, *, label: str) -> None:
    """Write the source's tensors, made again from ours."""
    missing = [t for name in names for t in table.moves[name].targets if t not in tensors.infos]
    if missing:
        raise CheckpointError(f"the model folder lacks {list_some(missing)}.")

    def back(name: str, read: Callable[[str], mx.array]) -> mx.array:
        move = table.moves[name]
        return move.transform.back(tuple(read(target) for target in move.targets))

    def blank(target: str) -> mx.array:
        return mx.zeros(tensors.infos[target].shape, tensors.infos[target].dtype)

    made = {name: back(name, blank) for name in names}
    forms = {name: Form(value.shape, value.dtype) for name, value in made.items()}
    write_shards(folder, forms, ((name, back(name, tensors.read)) for name in progress_bar(label, names)))
