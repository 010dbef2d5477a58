"""How each part of a model is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import get_args

from mm1_mlx.settings import ADAPTER_RANK, ADAPTER_SCALE, How
from mm1_mlx.strict import Config


@dataclass(frozen=True)
class PartTuning(Config):
    """How one part is trained: all settings after the first are for adapters; ``num_layers`` is also for training in
    full.

    ``keys`` name linears as their layer does (``self_attn.q_proj``) or as the part does (``readout.0``,
    ``layers.3.self_attn.q_proj``), and may be patterns (``*.q_proj``). Modules outside the layers, such as the
    vocabulary's table and head, must be given by their whole names. Without keys, all linears of the layers are
    meant. A connector has no layers, so ``num_layers`` does not apply to it and keys may name any of its linears.
    """

    how: How
    rank: int = ADAPTER_RANK
    scale: float = ADAPTER_SCALE  # factor for the product of the two matrices
    dropout: float = 0.0  # share of the adapter's inputs that training drops
    keys: tuple[str, ...] = ()
    num_layers: int = -1  # how many of the last layers; -1: all

    def __post_init__(self) -> None:
        hows = get_args(How)
        self._require(self.how in hows, f"how is {self.how!r}, expected one of {', '.join(hows)}.")
        self._require_positive("rank", "scale")
        self._require(
            0 <= self.dropout < 1, f"dropout is {self.dropout}, expected at least 0 and less than 1."
        )
        self._require(
            self.num_layers == -1 or self.num_layers > 0,
            f"num_layers is {self.num_layers}, expected more than 0, or -1 for all.",
        )
        self._require(
            self.has_adapters or not self.keys, f"keys are for lora and dora, but how is {self.how!r}."
        )

    @property
    def has_adapters(self) -> bool:
        """Whether the part's own weights stay unchanged, with trained ones beside them."""
        return self.how in ("lora", "dora")


@dataclass(frozen=True)
class Tuning(Config):
    """How each part of a model is trained."""

    image_encoder: PartTuning
    connector: PartTuning
    decoder: PartTuning

    @property
    def parts(self) -> dict[str, PartTuning]:
        """The tuning of each part that is trained, by name."""
        return {part: own for part in PARTS if (own := getattr(self, part)).how != "frozen"}


PARTS = tuple(field.name for field in fields(Tuning))


def train_fully(parts: Iterable[str]) -> Tuning:
    """Return the tuning that trains all weights of ``parts`` and freezes the others."""
    chosen = set(parts)
    return Tuning(*(PartTuning("full" if part in chosen else "frozen") for part in PARTS))
