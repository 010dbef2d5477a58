"""The gradient of a contrastive loss over more pairs than fit into memory at once.

The loss of each pair depends on every other pair, so the batch cannot simply be cut. But it depends on them only
through their embeddings, which are small. So there are three steps: first all embeddings are computed, without keeping
the values inside the model; then the loss and its gradient with respect to the embeddings; and last, a few pairs at a
time, the embeddings once more, through which that gradient flows into the model. The sum is the gradient of the whole
batch.

Source: GradCache (arXiv:2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.training.distributed.processes import Processes

Embedded = tuple[mx.array, mx.array]  # embeddings of pictures and of their texts, (n, E) each
Loss = Callable[..., mx.array]  # takes embeddings of all pictures and of all texts, then learned numbers


@dataclass(frozen=True)
class Pull:
    """The part of the loss of all pairs, and of its gradient, that belongs to one chunk of n pairs."""

    images: Float[mx.array, "n E"]  # gradient with respect to the embeddings of the chunk's pictures
    texts: Float[mx.array, "n E"]  # gradient with respect to the embeddings of its texts
    others: tuple[mx.array, ...]  # the chunk's share of the gradient with respect to other learned numbers
    loss: Float[mx.array, ""]  # the chunk's share of the loss
    num_right: Float[mx.array, ""]  # number of the chunk's pictures whose nearest text is their own

    def of(
        self, images: Float[mx.array, "n E"], texts: Float[mx.array, "n E"], others: Sequence[mx.array]
    ) -> Float[mx.array, ""]:
        """Return a value whose gradient is the chunk's part of the whole gradient; it is linear in the embeddings."""
        parts = zip((images, texts, *others), (self.images, self.texts, *self.others), strict=True)
        return reduce(mx.add, (mx.sum(found * gradient) for found, gradient in parts))


def compute_pulls(
    own: Sequence[Embedded], others: Sequence[mx.array], loss: Loss, *, dims: int, processes: Processes
) -> list[Pull]:
    """Compute the ``Pull`` of each chunk of this process's pairs.

    All processes must call this together, since the loss is over the pairs of all.

    Args:
        own: embeddings of this process's pairs, chunk by chunk, evaluated.
        others: learned numbers that the loss also takes, such as its temperature.
        loss: the loss, summed over pairs.
        dims: width of an embedding.
        processes: the processes of the run.
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
