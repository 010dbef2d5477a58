"""A recipe file: what it says, and what is wrong with it in words."""

import pytest
import yaml
from recipes import CAPTIONS, RECIPE, SMALL, TOWER, recipe_of

from mm1_mlx.errors import ConfigError
from mm1_mlx.training.pretraining.recipe import ModelSource, PretrainingRecipe, read_recipe


def read(*changes, **top):
    return PretrainingRecipe.from_dict(recipe_of(*changes, **top))


def refused(message, *changes, **top):
    with pytest.raises(ConfigError, match=message):
        read(*changes, **top)


def test_a_file_is_read_strictly(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    recipe = read_recipe(path)
    assert [stage.name for stage in recipe.stages] == ["encoder", "mixed", "sft"]
    path.write_text(path.read_text() + "stages: []\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml cannot be read: the key 'stages' stands twice"):
        read_recipe(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"recipe.yaml holds \[\], expected model and stages"):
        read_recipe(path)
    with pytest.raises(ConfigError, match=r"missing.yaml cannot be read: No such file"):
        read_recipe(tmp_path / "missing.yaml")


def test_keys_of_a_stage_may_be_written_with_dashes_and_numbers_as_people_do(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: mm1-tiny\nstages: [{name: a, iters: 2, batch-size: 3, learning-rate: 1e-4, sources: {text: {path: x.jsonl}}}]"
    )
    stage = read_recipe(path).stages[0]
    assert stage.recipe({}).learning_rate == 1e-4 and stage.recipe({}).batch_size == 3


def test_settings_of_runs_stand_beside_those_of_the_stage():
    stage = read({}, {"train": ["connector"], "grad_checkpoint": True, "keep": 5}).stages[1]
    assert stage.parts == ("connector",)
    assert stage.recipe({}).grad_checkpoint and stage.options.keep == 5


def test_what_the_file_gives_wins():
    stage = read({}, {"learning_rate": 0.5}).stages[1]
    found = stage.recipe({"learning_rate": 0.1, "weight_decay": 0.3})
    assert (found.learning_rate, found.weight_decay) == (0.5, 0.3)


def test_unknown_keys_are_refused_with_a_near_one():
    refused("unknown key 'sources_'. Did you mean sources", sources_={})
    refused(
        r"stage 2 \(mixed\): a stage has an unknown key 'lerning_rate'. Did you mean learning_rate",
        {},
        {"lerning_rate": 1},
    )
    refused(
        "stage 1.*ContrastiveSettings has an unknown key 'layers'", {"contrastive": TOWER | {"layers": 1}}
    )
    refused(
        "source captions: source has an unknown key 'pth'. Did you mean path",
        sources={"captions": {"pth": "x"}},
    )
    refused("model has an unknown key 'pre_set'. Did you mean preset", model={"pre_set": "mm1-tiny"})


def test_stages_must_be_there_and_have_names_of_their_own():
    refused("there are no stages", stages=[])
    with pytest.raises(ConfigError, match="lacks stages"):
        PretrainingRecipe.from_dict({"model": SMALL})
    refused("stages 1 and 2 are both called 'encoder'; rename one", {}, {"name": "encoder"})
    refused("stages 1 and 2 are both called 'encoder'; rename one", {}, {"name": "Encoder"})
    refused("name is 'a/b', expected the name of a folder", {}, {"name": "a/b"})
    refused("iters and batch_size must be given", {}, {"iters": None, "batch_size": None})


def test_a_stage_starts_from_an_earlier_one_or_a_model():
    recipe = read({}, {"start": "mm1-tiny"}, {"start": "encoder"})
    assert [recipe.stage_before(stage) for stage in recipe.stages] == [None, None, recipe.stages[0]]
    assert read().stage_before(read().stages[2]).name == "mixed"
    refused(
        "stage 'mixed' starts from 'encodr', which names no earlier stage .*Did you mean encoder",
        {},
        {"start": "encodr"},
    )
    refused("stage 'mixed' starts from 'sft', which names no earlier stage", {}, {"start": "sft"})
    refused("'encoder' starts from 'encoder', .*there is none before it", {"start": "encoder"})


def test_weights_must_sum_to_one():
    sources = {"captions": {"path": "a.jsonl", "weight": 0.5}, "text": {"path": "b.jsonl", "weight": 0.6}}
    refused(
        r"stage mixed: the weights of the sources sum to 1.1, expected 1: captions 0.5 \+ text 0.6",
        {"sources": CAPTIONS},
        {},
        sources=sources,
    )
    refused("stage mixed: .*sum to 0.5", {}, {"valid": {"a": {"path": "a", "weight": 0.5}}})


def test_a_contrastive_stage_takes_the_captions_of_the_recipe():
    recipe = read()
    assert recipe.weights(recipe.stages[0]) == {"captions": 1.0}
    assert recipe.weights(recipe.stages[1]) == {"captions": 0.45, "interleaved": 0.45, "text": 0.1}
    refused(
        "stage encoder: it has no sources, and none of the recipe's is called captions",
        sources={"a": {"path": "x"}},
    )
    refused("stage encoder: it has no sources, nor has the recipe", sources=None)


def test_what_a_kind_of_stage_cannot_do_is_refused():
    refused("kind contrastive needs the section contrastive", {"contrastive": None})
    refused("kind contrastive needs the section contrastive", {}, {"contrastive": TOWER})
    refused("train is not for a contrastive stage", {"train": ["encoder"]})
    refused("shard is not for a contrastive stage", {"shard": True})
    refused("instruction tuning needs sources of its own", {}, {}, {"sources": None})
    refused("batch_size is 1, expected at least 2: a picture is told from the others", {"batch_size": 1})
    refused("learning_rate_factors are all 0", {}, {"learning_rate_factors": [0, 0, 0]})
    refused("dtype is 'float16', expected one of bfloat16, float32", dtype="float16")
    refused("skip_bad is not for a mixture; max_bad_rows of a source", {}, {"skip_bad": True})
    refused("train is empty", {}, {"train": []})
    refused("stage.train is .*expected", {}, {"train": ["encodr"]})
    refused("hidden_dims is 30, not a multiple of num_heads 4", {"contrastive": TOWER | {"hidden_dims": 30}})
    refused("val_batches is -1, but a mixture has no end", {}, {"valid": CAPTIONS, "val_batches": -1})
    refused("Recipe.learning_rate is 'fast', expected float", {}, {"learning_rate": "fast"})


def test_a_model_is_a_folder_or_parts():
    assert read(model="mm1-tiny").model == ModelSource(folder="mm1-tiny")
    refused(
        "folder is a whole model, so preset cannot be given beside it",
        model={"folder": "x", "preset": "mm1-tiny"},
    )
    refused("the decoder of d reads with its own tokenizer", model={"decoder": "d", "tokenizer": "t"})
    refused("text_config is that of d, whose weights are taken", model={"decoder": "d", "text_config": {}})


def test_each_stage_has_a_seed_of_its_own():
    recipe = read({}, {}, {"seed": 40})
    assert [recipe.seed_of(stage) for stage in recipe.stages] == [3, 4, 40]


def test_an_unknown_stage_is_told():
    with pytest.raises(ConfigError, match=r"`stage` mixd is not in the recipe. Did you mean mixed"):
        read().find_stage("mixd")
