"""The model folder on disk: load, save, quantize; the adapter folder beside it."""

from mm1_mlx.checkpoint.adapters import (
    combine_adapters,
    fuse_adapters,
    load_adapters,
    remove_adapters,
    save_adapters,
)
from mm1_mlx.checkpoint.load import load
from mm1_mlx.checkpoint.peft import export_peft, import_peft
from mm1_mlx.checkpoint.quantize import quantize
from mm1_mlx.checkpoint.save import save

__all__ = [
    "combine_adapters",
    "export_peft",
    "fuse_adapters",
    "import_peft",
    "load",
    "load_adapters",
    "quantize",
    "remove_adapters",
    "save",
    "save_adapters",
]
