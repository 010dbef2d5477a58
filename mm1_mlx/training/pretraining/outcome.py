"""The result of a stage: a whole model folder, which the next stage, another run or a user can load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from mm1_mlx.checkpoint.save import save
from mm1_mlx.training.pretraining.beginning import Beginning
from mm1_mlx.training.pretraining.recipe import Stage
from mm1_mlx.tuning.adapters import untrained_parts

MODEL = "model"  # the folder of the model inside that of the stage
KINDS = {
    "contrastive": "contrastive learning of the image encoder",
    "pretraining": "pre-training",
    "sft": "instruction tuning",
}


@dataclass(frozen=True)
class Outcome:
    """The model of a stage while it learns, and how its folder is written."""

    beginning: Beginning
    stage: Stage
    origin: str  # what the stage started from, in words

    def save(self, folder: Path, weights: Mapping[str, mx.array] | None = None) -> None:
        """Write the model folder, replacing an earlier one.

        Args:
            folder: the folder of the run, or one inside it for the best weights so far.
            weights: all weights of the model, where the model itself holds only a part of them.
        """
        model = self.beginning.model
        model.config = replace(model.config, untrained=untrained_parts(model))
        save(
            model,
            folder / MODEL,
            companions=self.beginning.companions,
            overwrite=True,
            weights=weights,
            card=self.card(),
        )

    def card(self) -> str:
        """Return the text of the folder's README.md."""
        untrained = untrained_parts(self.beginning.model)
        rest = f" Its {' and '.join(untrained)} {_is(untrained)} untrained: its answers are noise." * bool(
            untrained
        )
        return f"""\
---
library_name: mlx
pipeline_tag: image-text-to-text
tags:
- mlx
- mm1
---

# {self.stage.name}

A model of MM1's architecture (arXiv:2403.09611), as stage `{self.stage.name}` of a recipe of
`python -m mm1_mlx.pretrain` left it: {KINDS[self.stage.kind]}, begun with {self.origin}. It is not Apple's MM1, whose
weights were never published.{rest}
"""


def _is(words: tuple[str, ...]) -> str:
    return "is" if len(words) == 1 else "are"
