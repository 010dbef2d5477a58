"""The memory that training needs, by its purpose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """The bytes that training a model needs."""

    weights: int  # of the model as it was loaded
    pictures: int = 0  # an estimate of the largest step of encoding one batch of views
    adapters: int = 0  # trained numbers besides frozen weights
    optimizer: int = 0  # the optimizer's state
    gradients: int = 0  # of one sequence, and the sum so far if an update has several
    activations: int = 0  # of the largest sequence, kept for its backward pass
    checkpointed: int = 0  # the same with gradient checkpointing
    updating: int = 0  # gradients and new values while the optimizer works
    kept: int = 0  # visual tokens that are kept to be used again

    def total(self, *, grad_checkpoint: bool = False) -> int:
        """Return the most bytes in use at once.

        Encoding, the backward pass and the update come one after the other, so the largest of them counts.
        """
        activations = self.checkpointed if grad_checkpoint else self.activations
        step = self.gradients + max(activations, self.pictures)
        stays = self.weights + self.adapters + self.optimizer + self.kept
        return stays + max(step, self.updating)
