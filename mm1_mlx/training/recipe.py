"""The settings that decide what a run learns: two runs with equal settings, data and weights have equal losses.

The names are those of mlx-lm's ``lora`` where it has them. ``--help`` imports this file, so it imports nothing slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mm1_mlx.data.settings import DataSettings

Part = Literal["encoder", "connector", "decoder"]  # how files and flags name the parts of a model
PART_NAMES: dict[Part, str] = {  # the attributes of the model that they stand for
    "encoder": "image_encoder",
    "connector": "connector",
    "decoder": "decoder",
}
Optimizer = Literal["adamw", "adam", "adafactor", "lion", "muon", "sgd"]
Schedule = Literal["constant", "cosine_decay", "linear_decay"]
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
SCHEDULES: tuple[str, ...] = get_args(Schedule)
SFT = {  # Source: MM1, "Supervised Fine-Tuning"
    "optimizer": "adafactor",
    "learning_rate": 1e-5,
    "schedule": "cosine_decay",
}
RATE_TIMES_WIDTH = 0.12  # wider layers sum up more changes, so each change must be smaller


@dataclass(frozen=True)
class Recipe(DataSettings):
    """All settings that decide what a run learns. A run can be resumed only with the same ones."""

    iters: int = 1000  # updates of the weights; a resumed run may ask for more
    learning_rate: float = 1e-4  # the highest of the schedule
    learning_rate_factors: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of encoder, connector, decoder
    schedule: Schedule = "constant"
    warmup: int = 0  # updates in which the rate rises from 0 to the highest
    final_rate: float = 0.0  # where the schedule ends, as a share of the highest rate
    optimizer: Optimizer = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)  # of adamw and adam
    weight_decay: float = 0.0  # of adamw, lion, muon and sgd
    clip_norm: float = 1.0  # largest norm of the whole gradient; 0 means no limit
    grad_checkpoint: bool = False  # compute layers twice instead of keeping their inner values
    shard: bool = False  # spread parameters and optimizer state over the processes
    vision_batch_size: int | None = None  # views encoded together

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("iters", "learning_rate")
        self._require_not_negative("warmup", "final_rate", "weight_decay", "clip_norm")
        for name, most in (("learning_rate", 10), ("final_rate", 1)):
            value = getattr(self, name)
            self._require(value <= most, f"{name} is {value}, expected at most {most}.")
        self._require(
            self.warmup < self.iters,
            f"warmup is {self.warmup}, expected fewer updates than iters {self.iters}.",
        )
        for name in ("learning_rate_factors", "betas"):
            values = getattr(self, name)
            self._require(min(values) >= 0, f"{name} are {values}, expected 0 or more each.")
        self._require(
            max(self.learning_rate_factors) > 0, "learning_rate_factors are all 0; nothing would learn."
        )
        self._require(max(self.betas) < 1, f"betas are {self.betas}, expected less than 1 each.")
        self._require(
            self.vision_batch_size is None or self.vision_batch_size > 0,
            f"vision_batch_size is {self.vision_batch_size}, expected more than 0.",
        )


def tuning_rate(width: int) -> float:
    """Return the default learning rate for tuning a decoder of this width."""
    return float(f"{RATE_TIMES_WIDTH / width:.1e}")
