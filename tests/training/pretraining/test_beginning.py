"""The model that a recipe begins with: of a folder, of parts, of sizes alone."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from recipes import SMALL
from small_models import SMALL as OTHER
from tuned_models import LLAMA, make

from mm1_mlx import load, save
from mm1_mlx.errors import CheckpointError, ConfigError
from mm1_mlx.training.pretraining.beginning import begin, begin_with, sizes_of
from mm1_mlx.training.pretraining.recipe import ModelSource


def source(**values):
    return ModelSource.from_dict(values)


def begun(*, seed=0, sizes_alone=False, **values):
    return begin(source(**values), seed=seed, dtype="float32", sizes_alone=sizes_alone)


def same(one, other):
    theirs = dict(tree_flatten(other.parameters()))
    return all(mx.array_equal(value, theirs[key]) for key, value in tree_flatten(one.parameters()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mm1_tiny):
    """Makes model folders with mm1-tiny's tokenizer."""

    def made(config, name):
        from mm1_mlx.checkpoint.hub import find_folder

        path = tmp_path_factory.mktemp("models") / name
        save(make(config), path, companions=find_folder("mm1-tiny"))
        return str(path)

    return made


def test_a_whole_model_is_taken_as_it_is():
    found = begun(folder="mm1-tiny")
    assert same(found.model, load("mm1-tiny")[0]) and found.processor.config == found.model.config


def test_a_preset_gives_sizes_that_can_be_changed_and_random_weights_by_seed():
    one, again, other = begun(**SMALL), begun(**SMALL), begun(**SMALL, seed=1)
    assert one.model.config.text_config.hidden_dims == 64
    assert one.model.config.connector_config.output_dims == 64  # as wide as its neighbours
    assert one.model.config.connector_config.position_grid == 9
    assert one.model.config.untrained == ("image encoder", "connector", "decoder")
    assert same(one.model, again.model) and not same(one.model, other.model)


def test_parts_of_two_models_come_together_with_a_new_connector(folder):
    encoder, decoder = folder(OTHER, "encoder"), folder(LLAMA, "decoder")
    connector = {"type": "average_pool", "num_visual_tokens": 4}
    found = begun(image_encoder=encoder, decoder=decoder, connector_config=connector)
    assert same(found.model.image_encoder, make(OTHER).image_encoder)
    assert same(found.model.decoder, make(LLAMA).decoder)
    assert found.model.config.untrained == ("connector",)
    assert found.model.config.image_token_id == OTHER.image_token_id


def test_other_pictures_are_prepared_where_a_stage_says_so():
    found = begun(**SMALL).with_image_config({"image_size": 252})
    assert found.model.config.patch_grid == (18, 18) and found.processor.config == found.model.config
    assert found.model.image_encoder(mx.zeros((1, 252, 252, 3))).shape == (1, 324, 32)
    with pytest.raises(ConfigError, match="unknown key 'image_sise'"):
        found.with_image_config({"image_sise": 252})


def test_sizes_alone_are_not_computed():
    before = mx.get_active_memory()
    found = begun(preset="mm1-7b", tokenizer="mm1-tiny", sizes_alone=True)
    assert found.model.config.text_config.hidden_dims == 4096
    assert mx.get_active_memory() - before < 1e6
    assert (
        begin_with("mm1-tiny", dtype="float32", sizes_alone=True).model.config.text_config.hidden_dims == 256
    )


def test_a_tokenizer_with_more_tokens_than_the_vocabulary_is_refused():
    small = SMALL | {"text_config": SMALL["text_config"] | {"vocab_size": 500}}
    with pytest.raises(CheckpointError, match="has 704 tokens, but the model's vocabulary is 500; take"):
        begun(**small)


def test_what_is_missing_is_told(tmp_path, tiny_folder):
    with pytest.raises(
        ConfigError, match="`model` lacks vision_config, connector_config, text_config, image_config"
    ):
        sizes_of(source(tokenizer="mm1-tiny"))
    with pytest.raises(ConfigError, match="`model` lacks tokenizer: a new decoder needs one"):
        sizes_of(source(preset="mm1-3b"))
    (tiny_folder / "config.json").unlink()
    with pytest.raises(
        ConfigError, match="does not tell which token stands for a picture; give image_token_id"
    ):
        sizes_of(source(preset="mm1-3b", tokenizer=str(tiny_folder)))
    assert (
        sizes_of(source(preset="mm1-3b", tokenizer=str(tiny_folder), image_token_id=3))[0].image_token_id == 3
    )
    with pytest.raises(CheckpointError, match="there is no model named 'nowhere'"):
        begun(folder="nowhere")


def test_packed_parts_are_refused(folder, tmp_path):
    from mm1_mlx import quantize
    from mm1_mlx.checkpoint.hub import find_folder

    model = make(OTHER)
    quantize(model, group_size=32)
    save(model, tmp_path / "packed", companions=find_folder("mm1-tiny"))
    with pytest.raises(ConfigError, match="packed is quantized, and packed weights are not trained in full"):
        begun(preset="mm1-tiny", image_encoder=str(tmp_path / "packed"))
