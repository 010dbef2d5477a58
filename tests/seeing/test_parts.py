"""The screen of a model against what its parts and its processor say."""

from dataclasses import replace

import pytest
from small_models import ANYRES, PAIR, SMALL, SMART

from mm1_mlx import MM1, Processor
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.model.mm1 import count_parameters
from mm1_mlx.seeing.parts import PICTURES, describe_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": 768,
}


def with_rule(**changes):
    return replace(SMALL, image_config=SMALL.image_config.changed(**changes))


CONFIGS = {
    "one view": SMALL,
    "static": with_rule(sub_images="static", resize="crop"),
    "dynamic": with_rule(sub_images="dynamic", max_sub_images=4, position_tags="index"),
    "anyres": ANYRES,
    "smart": SMART,
    "pair": PAIR,
    "sparse": replace(SMALL, text_config=replace(SMALL.text_config, num_experts=4, sparse_every=2)),
    "llama": replace(SMALL, text_config=MlxLmDecoderConfig(LLAMA)),
}
WORDS = {
    "one view": ["stretched to 16 x 16 pixels; one view", "2 x 2 visual tokens for a view"],
    "static": ["its middle, resized to 32 x 32 pixels: the whole at half the size, then 4 crops"],
    "dynamic": ["padded to a grid of 1 to 4 crops of 16 x 16 pixels, then the whole, stretched to 16 x 16"],
    "anyres": ["up to 9 crops of 16 x 16 pixels, tokens of padding dropped"],
    "smart": ["sides multiples of 8 pixels, 128 to 2,048 pixels together", "for each 2 x 2 patches"],
    "pair": ["padded and resized to 32 x 32 pixels: 4 crops", "twice 2 x 2"],
    "sparse": ["4 experts in one layer of 2, 2 at work"],
    "llama": ["llama (mlx-lm), width 64, 3 layers, 4 heads, 96 inside", "context        not said"],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parts_are_described(name):
    shown = describe_model(CONFIGS[name])
    for words in WORDS[name]:
        assert words in shown


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_parts(name):
    shown, model = describe_model(CONFIGS[name]), MM1(CONFIGS[name])
    for part in (model.image_encoder, model.connector, model.decoder, model):
        assert f" {count_parameters(part):,} parameters" in shown


@pytest.mark.parametrize("name", CONFIGS)
def test_a_picture_costs_what_the_processor_says(name, mm1_tiny):
    processor = Processor(mm1_tiny[1].tokenizer, CONFIGS[name])
    lines = describe_model(CONFIGS[name]).splitlines()[-len(PICTURES) :]
    for line, (width, height) in zip(lines, PICTURES, strict=True):
        assert line.split()[:3] == [str(width), "x", str(height)]
        assert int(line.split()[4]) == processor.num_visual_tokens(width, height)
