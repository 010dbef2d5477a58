"""What a training run is told, checked once. The names are those of mlx-lm's ``lora`` where it has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mm1_mlx.strict import Config

OPTIMIZERS = ("adamw", "adam", "adafactor", "lion", "muon", "sgd")
SCHEDULES = ("constant", "cosine_decay", "linear_decay")


@dataclass(frozen=True)
class TrainingSettings(Config):
    """One run. Two runs with equal settings, data and weights have equal losses.

    Source for the values of ``mm1_sft``: MM1, "Supervised Fine-Tuning".
    """

    iters: int = 1000  # updates of the weights
    batch_size: int = 4  # rows at once, all machines together
    grad_accumulation_steps: int = 1  # batches for one update
    learning_rate: float = 1e-4  # the highest
    learning_rate_factors: tuple[float, float, float] = (
        1.0,
        1.0,
        1.0,
    )  # of image encoder, connector, decoder
    schedule: Literal["constant", "cosine_decay", "linear_decay"] = "constant"
    warmup: int = 0  # updates from 0 to the highest rate
    optimizer: Literal["adamw", "adam", "adafactor", "lion", "muon", "sgd"] = "adamw"
    weight_decay: float = 0.0  # of adamw, lion, muon and sgd
    clip_norm: float = 1.0  # of the whole gradient; 0: not clipped
    max_seq_length: int = 2048  # tokens of a packed sequence
    pack: bool = True  # rows of different length share a sequence
    truncate: bool = False  # cut rows that are longer, never inside a picture
    skip_bad: bool = False  # go on without rows that cannot be read
    train_on_prompt: bool = False  # learn the user's turns too
    grad_checkpoint: bool = False  # compute layers twice instead of keeping what they made
    shard: bool = False  # parameters and optimizer state are spread over the processes
    vision_batch_size: int | None = None  # views encoded together
    val_batches: int = 25  # batches of one validation; -1: all rows
    steps_per_report: int = 10
    steps_per_eval: int = 200
    save_every: int = 100
    keep: int = 2  # checkpoints; older ones are deleted
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_positive(
            *("iters", "batch_size", "grad_accumulation_steps", "learning_rate", "max_seq_length"),
            *("steps_per_report", "steps_per_eval", "save_every", "keep"),
        )
        for name in ("warmup", "weight_decay", "clip_norm", "seed"):
            value = getattr(self, name)
            self._require(value >= 0, f"{name} is {value}, expected 0 or more.")
        self._require(
            self.learning_rate <= 10, f"learning_rate is {self.learning_rate}, expected at most 10."
        )
        self._require(
            self.warmup < self.iters,
            f"warmup is {self.warmup}, expected fewer updates than iters {self.iters}.",
        )
        self._require(
            all(factor >= 0 for factor in self.learning_rate_factors),
            f"learning_rate_factors are {self.learning_rate_factors}, expected 0 or more each.",
        )
        self._require(
            self.val_batches == -1 or self.val_batches > 0,
            f"val_batches is {self.val_batches}, expected more than 0, or -1 for all.",
        )
        self._require(
            self.vision_batch_size is None or self.vision_batch_size > 0,
            f"vision_batch_size is {self.vision_batch_size}, expected more than 0.",
        )

    @property
    def rows_per_update(self) -> int:
        return self.batch_size * self.grad_accumulation_steps
