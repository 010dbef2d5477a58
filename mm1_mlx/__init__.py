"""MM1 multimodal language models on Apple silicon.

    from mm1_mlx import load, generate

    model, processor = load("mm1-tiny")
    print(generate(model, processor, "What color is the circle?", images=["scene.png"]))

Source: "MM1: Methods, Analysis & Insights from Multimodal LLM Pre-training" (arXiv:2403.09611).
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm1_mlx import tiny
    from mm1_mlx.checkpoint.load import load
    from mm1_mlx.checkpoint.quantize import quantize
    from mm1_mlx.checkpoint.save import save
    from mm1_mlx.config import MM1Config
    from mm1_mlx.errors import MM1Error
    from mm1_mlx.evaluation.run import evaluate
    from mm1_mlx.evaluation.settings import EvaluationSettings
    from mm1_mlx.generation import Request, batch_generate, generate, stream_batch, stream_generate
    from mm1_mlx.generation.prefix import Prefix
    from mm1_mlx.inputs.few_shot import Shot
    from mm1_mlx.inputs.processor import Processor
    from mm1_mlx.model.mm1 import MM1
    from mm1_mlx.presets import preset
    from mm1_mlx.settings import Sampling
    from mm1_mlx.training.options import RunOptions
    from mm1_mlx.training.recipe import Recipe
    from mm1_mlx.training.task import Task
    from mm1_mlx.training.trainer import Trainer
    from mm1_mlx.tuning import (
        PartTuning,
        Tuning,
        combine_adapters,
        export_peft,
        fuse_adapters,
        import_peft,
        load_adapters,
        remove_adapters,
    )
    from mm1_mlx.vision.cache import VisionCache

__version__ = "0.1.0"

_PUBLIC = {  # the names that type checkers find above, by module
    "mm1_mlx": "tiny",
    "mm1_mlx.checkpoint.load": "load",
    "mm1_mlx.checkpoint.quantize": "quantize",
    "mm1_mlx.checkpoint.save": "save",
    "mm1_mlx.config": "MM1Config",
    "mm1_mlx.errors": "MM1Error",
    "mm1_mlx.evaluation.run": "evaluate",
    "mm1_mlx.evaluation.settings": "EvaluationSettings",
    "mm1_mlx.generation": "Request batch_generate generate stream_batch stream_generate",
    "mm1_mlx.generation.prefix": "Prefix",
    "mm1_mlx.inputs.few_shot": "Shot",
    "mm1_mlx.inputs.processor": "Processor",
    "mm1_mlx.model.mm1": "MM1",
    "mm1_mlx.presets": "preset",
    "mm1_mlx.settings": "Sampling",
    "mm1_mlx.training.options": "RunOptions",
    "mm1_mlx.training.recipe": "Recipe",
    "mm1_mlx.training.task": "Task",
    "mm1_mlx.training.trainer": "Trainer",
    "mm1_mlx.tuning": "PartTuning Tuning combine_adapters export_peft fuse_adapters import_peft load_adapters "
    "remove_adapters",
    "mm1_mlx.vision.cache": "VisionCache",
}
_HOMES = {name: home for home, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``--help`` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] == __name__:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List all names, including those that are not imported yet."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A package in which importing the command ``mm1_mlx.generate`` does not hide the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOMES and name != "tiny"):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
