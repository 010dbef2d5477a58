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
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "MM1": "mm1_mlx.model.mm1",
    "MM1Config": "mm1_mlx.config",
    "MM1Error": "mm1_mlx.errors",
    "PartTuning": "mm1_mlx.tuning",
    "Recipe": "mm1_mlx.training.recipe",
    "Request": "mm1_mlx.generation",
    "RunOptions": "mm1_mlx.training.options",
    "Sampling": "mm1_mlx.settings",
    "Shot": "mm1_mlx.inputs.few_shot",
    "Task": "mm1_mlx.training.task",
    "Trainer": "mm1_mlx.training.trainer",
    "Tuning": "mm1_mlx.tuning",
    "VisionCache": "mm1_mlx.vision.cache",
    "Prefix": "mm1_mlx.generation.prefix",
    "Processor": "mm1_mlx.inputs.processor",
    "batch_generate": "mm1_mlx.generation",
    "combine_adapters": "mm1_mlx.tuning",
    "export_peft": "mm1_mlx.tuning",
    "fuse_adapters": "mm1_mlx.tuning",
    "generate": "mm1_mlx.generation",
    "import_peft": "mm1_mlx.tuning",
    "load": "mm1_mlx.checkpoint",
    "load_adapters": "mm1_mlx.tuning",
    "preset": "mm1_mlx.presets",
    "quantize": "mm1_mlx.checkpoint",
    "remove_adapters": "mm1_mlx.tuning",
    "save": "mm1_mlx.checkpoint",
    "stream_batch": "mm1_mlx.generation",
    "stream_generate": "mm1_mlx.generation",
    "tiny": "mm1_mlx.tiny",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``--help`` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    return home if _HOMES[name].endswith("." + name) else getattr(home, name)


class _Package(ModuleType):
    """Importing the command ``mm1_mlx.generate`` must not hide the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOMES and name != "tiny"):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
