"""The defaults of settings that a recipe leaves open, with reasons: the paper's values for each kind of stage.

What the recipe gives wins over these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.pretraining import rule
from mm1_mlx.training.pretraining.recipe import Stage
from mm1_mlx.training.recipe import SFT, Recipe

SEQUENCE = 4096  # tokens of MM1's sequences in pre-training
SFT_SEQUENCE = 2048  # the same in instruction tuning


@dataclass(frozen=True)
class Decision:
    """The default of one setting."""

    name: str  # name of a setting of ``Recipe``
    value: Any
    why: str  # the reason, in words


@dataclass(frozen=True)
class Decided:
    """A stage with all its settings."""

    stage: Stage
    decisions: tuple[Decision, ...]
    seed: int

    @property
    def recipe(self) -> Recipe:
        """All settings of the stage's run."""
        return self.stage.recipe({"seed": self.seed} | {found.name: found.value for found in self.decisions})

    def keep_warmup(self, was: Recipe) -> Decided:
        """Return the same stage with the warm-up of an earlier run, which is to be resumed with more updates."""
        kept = Decision("warmup", was.warmup, "as the run began")
        return replace(self, decisions=tuple(kept if d.name == "warmup" else d for d in self.decisions))

    def lines(self) -> Iterator[str]:
        """Yield a line for each default: its value and reason, or what the recipe gives instead."""
        for found in self.decisions:
            value, given = _shown(found.value), self.stage.given.get(found.name)
            if given is None:
                yield f"{found.name} {value}: {found.why}"
            else:
                yield f"{found.name} {_shown(given)}: the recipe's; else {value}, {found.why}"


def decide(stage: Stage, model: MM1, *, seed: int) -> Decided:
    """Decide the settings that a stage leaves open.

    Args:
        stage: a stage of a recipe.
        model: the model that the stage begins with; only its sizes count.
        seed: the seed of the stage.
    """
    makers = {"contrastive": _contrastive, "pretraining": _pretraining, "sft": _sft}
    return Decided(stage, tuple(makers[stage.kind](stage, model)), seed)


def _pretraining(stage: Stage, model: MM1) -> Iterator[Decision]:
    """Yield the defaults of pre-training.

    Source: MM1, "Pre-training Details" and "Model Scaling"; betas and clipping are ours.
    """
    number, iters = rule.count_for_rule(model), stage.given["iters"]
    rate = rule.peak_rate(number)
    yield Decision(
        "learning_rate", rate,
        f"MM1's exp({rule.SLOPE} ln N - {-rule.INTERCEPT}), where N is {number:,}, the decoder without its embeddings",
    )  # fmt: skip
    yield Decision(
        "weight_decay", rule.DECAY,
        "MM1's 0.1 x rate at every update, and AdamW here multiplies what it is given by the rate",
    )  # fmt: skip
    yield Decision("optimizer", "adamw", "its decay is decoupled, as MM1's is")
    yield Decision("betas", rule.BETAS, "usual for language models; MM1 names none")
    yield Decision("clip_norm", rule.CLIP_NORM, "usual for language models; MM1 names none")
    yield from _cosine(iters, rule.FINAL_RATE, "to a tenth of the peak, as MM1's")
    yield Decision("max_seq_length", _room(model, SEQUENCE), "MM1's 4,096 tokens, or the decoder's context")
    yield Decision("max_pictures", 16, "MM1's of a document")
    yield Decision("truncate", True, "long documents are cut, never inside a picture")


def _sft(stage: Stage, model: MM1) -> Iterator[Decision]:
    """Yield the defaults of instruction tuning.

    Source: MM1, "Supervised Fine-Tuning".
    """
    yield Decision("learning_rate", SFT["learning_rate"], "MM1's for instruction tuning")
    yield Decision("optimizer", SFT["optimizer"], "MM1's for instruction tuning")
    yield Decision("schedule", SFT["schedule"], "MM1's for instruction tuning")
    yield Decision(
        "max_seq_length", _room(model, SFT_SEQUENCE), "MM1's 2,048 tokens, or the decoder's context"
    )


def _contrastive(stage: Stage, model: MM1) -> Iterator[Decision]:
    """Yield the defaults of contrastive learning.

    Source: CLIP (arXiv:2103.00020), its table of hyper-parameters; MM1 names none for its encoders.
    """
    yield Decision("learning_rate", 5e-4, "CLIP's for a ViT-B; larger encoders took less")
    yield Decision("weight_decay", 0.2, "CLIP's")
    yield Decision("optimizer", "adamw", "CLIP's, nearly: its decay spared gains and biases")
    yield Decision("betas", (0.9, 0.98), "CLIP's for a ViT")
    yield from _cosine(stage.given["iters"], 0.0, "to 0, as CLIP's")


def _cosine(iters: int, final: float, why: str) -> Iterator[Decision]:
    yield Decision("schedule", "cosine_decay", why)
    yield Decision("final_rate", final, why)
    yield Decision("warmup", rule.warmup_of(iters), "a hundredth of the updates, as MM1's 2,000 of 200,000")


def _room(model: MM1, most: int) -> int:
    return min(most, model.config.text_config.max_positions or most)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
