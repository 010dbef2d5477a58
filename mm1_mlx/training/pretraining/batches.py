"""How a stage's rows become what it computes: packed sequences, or pairs of a picture and its caption."""

from __future__ import annotations

from collections.abc import Callable

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.mixture import Mixture
from mm1_mlx.data.packing import can_pack
from mm1_mlx.data.pairs import PairBatches
from mm1_mlx.training.pretraining.beginning import Beginning
from mm1_mlx.training.pretraining.recipe import Stage
from mm1_mlx.training.recipe import Recipe


def batches_of(
    stage: Stage,
    beginning: Beginning,
    mixture: Mixture,
    recipe: Recipe,
    *,
    known: Callable[[str], bool] = lambda digest: False,
) -> Batches:
    """Return the batches of a stage.

    Args:
        stage: of a recipe.
        beginning: the model that it starts with.
        mixture: which rows come when.
        recipe: of the stage's run.
        known: whether the visual tokens of a picture with this digest are kept, so that it is not opened.
    """
    if stage.contrastive is not None:
        return PairBatches(
            mixture,
            beginning.processor.with_image_config(sub_images="none"),
            recipe,
            mixture,
            max_length=stage.contrastive.max_text_length,
            chunk_size=stage.contrastive.chunk_size,
        )
    packing = recipe.pack and can_pack(beginning.model)
    return Batches(mixture, beginning.processor, recipe, mixture, packing=packing, known=known)
