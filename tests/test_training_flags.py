"""What the flags of training say, on the command line and in a YAML file."""

import argparse

import pytest

from mm1_mlx.errors import ConfigError, UsageError
from mm1_mlx.lora import DEFAULT, _take_defaults, add_arguments
from mm1_mlx.training_flags import tuning_of, with_flags


def parsed(*argv):
    words = [str(word) for word in argv]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    _take_defaults(parser, words)
    return parser.parse_args(words)


def tuned(*argv):
    return tuning_of(parsed("--train", "encoder", "connector", "decoder", *argv))


@pytest.fixture
def recipe(tmp_path):
    def recipe(text):
        (tmp_path / "recipe.yaml").write_text(text)
        return parsed("-c", tmp_path / "recipe.yaml")

    return recipe


def test_one_value_is_for_all_parts():
    tuning = tuned("--rank", 3, "--scale", 2, "--dropout", 0.5, "--num-layers", 1)
    for own in tuning.parts.values():
        assert (own.rank, own.scale, own.dropout, own.num_layers) == (3, 2.0, 0.5, 1)


@pytest.mark.parametrize("words", [("16", "encoder=4"), ("encoder=4", "16")])
def test_a_part_may_have_a_value_of_its_own(words):
    tuning = tuned("--rank", *words)
    assert (tuning.image_encoder.rank, tuning.connector.rank, tuning.decoder.rank) == (4, 16, 16)


def test_parts_without_a_value_keep_the_default():
    tuning = tuned("--scale", "connector=1.5")
    assert (tuning.image_encoder.scale, tuning.connector.scale, tuning.decoder.scale) == (20.0, 1.5, 20.0)


def test_keys_are_the_decoders_but_those_that_name_a_part():
    tuning = tuned("--keys", "*.q_proj", "encoder=*.fc1", "connector=readout.0")
    assert tuning.decoder.keys == ("*.q_proj",)
    assert tuning.image_encoder.keys == ("*.fc1",)
    assert tuning.connector.keys == ("readout.0",)


def test_the_last_layers_may_be_trained_in_full():
    tuning = tuning_of(parsed("--train", "decoder=full", "--num-layers", 2))
    assert tuning.decoder.how == "full" and tuning.decoder.num_layers == 2


def test_a_file_gives_values_by_part(recipe):
    args = recipe(
        "train: {encoder: lora, decoder: dora}\nrank: {encoder: 4, decoder: 16}\n"
        "keys: {encoder: [fc1, fc2], decoder: self_attn.q_proj}\npack: false\n"
    )
    tuning = tuning_of(args)
    assert (tuning.image_encoder.how, tuning.decoder.how) == ("lora", "dora")
    assert (tuning.image_encoder.rank, tuning.decoder.rank) == (4, 16)
    assert tuning.image_encoder.keys == ("fc1", "fc2") and tuning.decoder.keys == ("self_attn.q_proj",)
    assert not with_flags(args, DEFAULT).pack


def test_a_file_may_hold_adapters_as_mlx_lm_writes_them(recipe):
    tuning = tuning_of(
        recipe("train: decoder\nlora_parameters: {rank: 5, scale: 3, keys: [self_attn.v_proj]}\n")
    )
    assert (tuning.decoder.rank, tuning.decoder.scale) == (5, 3.0)
    assert tuning.decoder.keys == ("self_attn.v_proj",)


def test_a_file_may_ask_for_mm1s_recipe_and_change_it(recipe):
    settings = with_flags(recipe("mm1-sft: true\nlearning-rate: 2.0e-5\n"), DEFAULT)
    assert (settings.optimizer, settings.learning_rate) == ("adafactor", 2e-5)


@pytest.mark.parametrize(
    ("argv", "error", "words"),
    [
        (
            ("--rank", "eye=4"),
            UsageError,
            "--rank eye=4: there is no part 'eye'; there are encoder, connector",
        ),
        (("--rank", "four"), UsageError, "--rank four: expected a number, or PART=NUMBER."),
        (("--rank", "decoder=4.5"), UsageError, "--rank decoder=4.5: expected a number"),
        (("--keys", "eye=fc1"), UsageError, "--keys eye=fc1: there is no part 'eye'"),
        (
            ("--train", "decoder", "--keys", "encoder=fc1"),
            UsageError,
            "--keys names linears of the encoder, which",
        ),
        (("--dropout", "encoder=2"), ConfigError, "dropout is 2.0, expected at least 0 and less than 1"),
    ],
)
def test_what_cannot_be_is_refused(argv, error, words):
    with pytest.raises(error, match=words.replace("*", r"\*")):
        tuned(*argv)


def test_lora_parameters_that_are_no_mapping_are_refused(recipe):
    with pytest.raises(ConfigError, match="lora_parameters is 3, expected rank, scale, dropout and keys"):
        recipe("lora_parameters: 3\n")
