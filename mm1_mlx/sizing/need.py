"""The memory that a model needs, by what it is for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """Bytes that a model takes where it answers, or where it is trained."""

    weights: int  # of the model as it was loaded
    pictures: int = 0  # the widest step of encoding one batch of views, estimated
    kv_cache: int | None = 0  # where it answers; None: unknown
    adapters: int = 0  # trained numbers beside frozen weights
    optimizer: int = 0  # what it keeps for every trained number
    gradients: int = 0  # of one sequence, and the sum so far where there are several
    activations: int = 0  # of the largest sequence, kept for its backward pass
    checkpointed: int = 0  # the same where layers are computed twice
    updating: int = 0  # gradients and what is new, while the optimizer works
    kept: int = 0  # visual tokens of pictures seen before

    def total(self, *, grad_checkpoint: bool = False) -> int | None:
        """Encoding, the backward pass and the update come one after the other: the largest counts."""
        if self.kv_cache is None:
            return None
        activations = self.checkpointed if grad_checkpoint else self.activations
        step = self.gradients + max(activations, self.pictures)
        stays = self.weights + self.kv_cache + self.adapters + self.optimizer + self.kept
        return stays + max(step, self.updating)
