"""Settings for which rows an update gets, and how they become sequences. It imports little, because ``--help`` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from mm1_mlx.strict import Config


@dataclass(frozen=True)
class DataSettings(Config):
    """The settings of turning rows into sequences, checked once."""

    batch_size: int = 4  # rows at once, on all machines together
    grad_accumulation_steps: int = 1  # batches for one update
    max_seq_length: int = 2048  # tokens of a packed sequence
    pack: bool = True  # rows of different length share a sequence
    max_pictures: int | None = None  # limit for a row; None allows any number
    truncate: bool = False  # cut rows that are longer, never inside a picture
    across_examples: bool = False  # let attention reach over all rows of a sequence, for the ablation
    skip_bad: bool = False  # go on without rows that cannot be read
    train_on_prompt: bool = False  # learn the user's turns too
    seed: int = 0  # decides the order of rows and all other random choices

    def __post_init__(self) -> None:
        self._require_positive("batch_size", "grad_accumulation_steps", "max_seq_length")
        self._require_seed(self.seed)
        self._require(
            self.max_pictures is None or self.max_pictures > 0,
            f"max_pictures is {self.max_pictures}, expected more than 0.",
        )

    def _require_not_negative(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(value >= 0, f"{name} is {value}, expected 0 or more.")

    @property
    def rows_per_update(self) -> int:
        return self.batch_size * self.grad_accumulation_steps
