"""A recipe of three stages of a very small model on the tiny world, as a file holds it, to be changed."""

import copy

from mm1_mlx.tiny.corpora import CORPORA
from mm1_mlx.training.pretraining.recipe import PretrainingRecipe
from mm1_mlx.training.pretraining.stages import Stages

GENERATORS = {f"tiny:{name}": maker for name, maker in CORPORA.items()}
CAPTIONS = {"captions": {"generator": "tiny:captions"}}
TOWER = {
    "hidden_dims": 32,
    "feed_forward_dims": 64,
    "num_layers": 1,
    "num_heads": 4,
    "embedding_dims": 32,
    "chunk_size": 4,
}
SMALL = {
    "preset": "mm1-tiny",
    "vision_config": {"num_layers": 1, "hidden_dims": 32, "feed_forward_dims": 64, "num_heads": 2},
    "connector_config": {"hidden_dims": 32, "num_blocks": 1, "num_visual_tokens": 4},
    "text_config": {
        "num_layers": 1,
        "hidden_dims": 64,
        "feed_forward_dims": 128,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dims": 32,
    },
}
EACH = {"steps_per_report": 1, "save_every": 1}
RECIPE = {
    "model": SMALL,
    "seed": 3,
    "sources": {
        "captions": {"generator": "tiny:captions"},
        "interleaved": {"generator": "tiny:documents"},
        "text": {"generator": "tiny:text"},
    },
    "stages": [
        {"name": "encoder", "kind": "contrastive", "iters": 3, "batch_size": 8, "contrastive": TOWER, **EACH},
        {"name": "mixed", "iters": 3, "batch_size": 4, **EACH},
        {
            "name": "sft",
            "kind": "sft",
            "iters": 2,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "sources": {"conversations": {"generator": "tiny:conversations"}},
            **EACH,
        },
    ],
}


def recipe_of(*changes, **top):
    """Return the recipe with some keys changed, and for each stage, in order, some of its own."""
    values = copy.deepcopy(RECIPE) | top
    values["stages"] = [
        {key: value for key, value in (stage | change).items() if value is not None}
        for stage, change in zip(values["stages"], [*changes, {}, {}, {}], strict=False)
    ]
    return values


def stages_of(folder, *changes, **top):
    """Return the stages of that recipe, whose results go into a folder."""
    return Stages(PretrainingRecipe.from_dict(recipe_of(*changes, **top)), folder, GENERATORS)
