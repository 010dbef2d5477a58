"""Choose which parts of a model are trained and how; save, load, combine and fuse adapters."""

from mm1_mlx.tuning.folder import combine_adapters, load_adapters, remove_adapters, save_adapters
from mm1_mlx.tuning.fuse import fuse_adapters
from mm1_mlx.tuning.peft import export_peft, import_peft
from mm1_mlx.tuning.settings import PartTuning, Tuning

__all__ = [
    "PartTuning",
    "Tuning",
    "combine_adapters",
    "export_peft",
    "fuse_adapters",
    "import_peft",
    "load_adapters",
    "remove_adapters",
    "save_adapters",
]
