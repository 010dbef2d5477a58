"""A check before the first update of a run: no token is predicted from tokens that it must not attend to.

The loss at a position must not change when a later token or picture changes, nor when another row of the same packed
sequence changes. A wrong mask would break this without any error, and would train a model that looks ahead.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from jaxtyping import Float

from mm1_mlx.arrays import to_number
from mm1_mlx.data.packing import Packed, logits_of
from mm1_mlx.errors import TrainingError
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.look import FrozenOutput, embed_pictures

TOLERANCE = {mx.float32: 1e-4, mx.float16: 2e-2, mx.bfloat16: 1e-1}  # of the largest logit


def require_causality(model: MM1, packed: Packed, seen: FrozenOutput) -> None:
    """Refuse a model whose predictions depend on later tokens or on other rows.

    The second half of the sequence is changed, then its first row; the logits of the rest must stay the same. Both
    tests are made even for a sequence of one row, because processes that share a model must call it equally often.

    Raises:
        TrainingError: a prediction changed that must not.
    """
    embeddings = embed_pictures(model, packed.ids, packed.pictures, seen)
    plain = logits_of(model, packed, embeddings)
    rows = np.array(packed.rows)
    middle = max(packed.num_tokens // 2, 1)
    places = np.arange(len(rows))
    _require_same(
        model, packed, embeddings, plain, changed=places >= middle, kept=places < middle,
        what="a later token or picture",
    )  # fmt: skip
    _require_same(model, packed, embeddings, plain, changed=rows == 0, kept=rows > 0, what="another row")


def _require_same(
    model: MM1,
    packed: Packed,
    embeddings: Float[mx.array, "L D"],
    plain: Float[mx.array, "L V"],
    *,
    changed: np.ndarray,
    kept: np.ndarray,
    what: str,
) -> None:
    other = mx.where(mx.array(changed)[:, None], -embeddings[::-1] + 0.5, embeddings)
    moved = mx.abs(logits_of(model, packed, other) - plain).astype(mx.float32).max(axis=-1)
    largest = to_number(mx.abs(plain).max())
    worst = to_number(mx.max(mx.where(mx.array(kept), moved, 0.0)))
    if not worst <= TOLERANCE.get(plain.dtype, 1e-4) * max(largest, 1.0):
        raise TrainingError(
            f"the {model.config.text_config.model_type} decoder looks where it must not: a logit moved by {worst:.3g} "
            f"when {what} changed. It cannot be trained like this; try it without `pack`, and report it."
        )
