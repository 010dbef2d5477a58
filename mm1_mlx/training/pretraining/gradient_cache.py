"""The gradient of a contrastive loss over more pairs than fit the memory at once.

Every pair of a batch is in the loss of every other, so the batch cannot simply be cut. But the loss sees pictures and
texts by their embeddings alone, and those are small: all of them are computed without keeping what led to them, then
the loss and its gradient by the embeddings, and at last, a few pairs at a time, everything again with what led to
them. The result is the gradient of the whole batch.

Source: GradCache (arXiv:2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.training.distributed.processes import Processes

Embedded = tuple[mx.array, mx.array]  # (n, E) of pictures, and of their texts
Loss = Callable[
    ..., mx.array
]  # of all pictures' and all texts' embeddings, and of what else is learned in it


@dataclass(frozen=True)
class Pull:
    """What the loss of all pairs wants of some of them."""

    images: Float[mx.array, "n E"]  # its gradient by their embeddings
    texts: Float[mx.array, "n E"]
    others: tuple[mx.array, ...]  # their share of its gradient by what else is learned in it
    loss: Float[mx.array, ""]  # their share of it
    num_right: Float[mx.array, ""]  # pictures of these whose nearest text is their own

    def of(
        self, images: Float[mx.array, "n E"], texts: Float[mx.array, "n E"], others: Sequence[mx.array]
    ) -> Float[mx.array, ""]:
        """Return what has the gradient of the whole loss by these pairs: linear in what they are embedded as."""
        parts = zip((images, texts, *others), (self.images, self.texts, *self.others), strict=True)
        return sum(mx.sum(found * gradient) for found, gradient in parts)


def pulls(
    own: Sequence[Embedded], others: Sequence[mx.array], loss: Loss, *, dims: int, processes: Processes
) -> list[Pull]:
    """Return one for each chunk of this process's pairs; all processes come here, for each one's pairs are in the loss.

    Args:
        own: embeddings of this process's pairs, chunk by chunk, evaluated.
        others: what else the loss takes and is learned in it, such as its temperature.
        loss: summed over pairs.
        dims: of an embedding.
        processes: of the run.
    """
    nothing = mx.zeros((0, dims))
    sides = [mx.concatenate([nothing, *(chunk[side] for chunk in own)]) for side in (0, 1)]
    every = [processes.rows_of_all(side) for side in sides]
    images, texts = map(mx.concatenate, every)
    if not len(images):
        return []
    value, gradients = mx.value_and_grad(loss, argnums=tuple(range(2 + len(others))))(images, texts, *others)
    is_right = mx.argmax(images @ texts.T, axis=1) == mx.arange(len(images))
    mx.eval(value, gradients, is_right)
    start, found = sum(map(len, every[0][: processes.rank])), []
    for stop in accumulate((len(chunk) for chunk, _ in own), initial=start):
        share = (stop - start) / len(images)
        found.append(
            Pull(
                gradients[0][start:stop],
                gradients[1][start:stop],
                tuple(share * gradient for gradient in gradients[2:]),
                share * value,
                mx.sum(is_right[start:stop]).astype(mx.float32),
            )
        )
        start = stop
    return found[1:]
