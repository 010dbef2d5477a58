import resource
import sys
from dataclasses import replace

import mlx.core as mx
import pytest

from mm1_mlx.errors import ConfigError
from mm1_mlx.model.decoder import Decoder
from mm1_mlx.model.image_encoder import ImageEncoder
from mm1_mlx.model.mm1 import MM1, count_parameters
from mm1_mlx.presets import DECODERS, IMAGE_ENCODERS, preset

MB = 2**20


def largest_memory():
    """The largest memory this process ever held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.mark.parametrize(("name", "paper"), [("mm1-3b", 2.9e9), ("mm1-7b", 6.4e9), ("mm1-30b", 30e9)])
def test_a_decoder_has_the_papers_number_of_parameters_beside_the_embedding(name, paper):
    decoder = Decoder(DECODERS[name])
    others = count_parameters(decoder) - count_parameters(decoder.embed_tokens)
    assert others == pytest.approx(paper, rel=0.03)


@pytest.mark.parametrize(("name", "paper"), [("mm1-3b-moe", 64e9), ("mm1-7b-moe", 47e9)])
def test_a_sparse_model_has_the_papers_number_of_parameters(name, paper):
    assert count_parameters(MM1(preset(name))) == pytest.approx(paper, rel=0.05)


@pytest.mark.parametrize(("name", "known"), [("vit-l-14-336", 303.5e6), ("vit-h-14-378", 631e6)])
def test_an_image_encoder_has_the_number_of_parameters_of_its_public_twin(name, known):
    assert count_parameters(ImageEncoder(IMAGE_ENCODERS[name])) == pytest.approx(known, rel=0.002)


def test_counting_the_largest_models_allocates_no_memory():
    before, largest_before = mx.get_active_memory(), largest_memory()
    mx.reset_peak_memory()
    for name in ("mm1-30b", "mm1-3b-moe"):
        assert count_parameters(MM1(preset(name))) > 30e9
    assert mx.get_peak_memory() - before < MB
    assert mx.get_active_memory() - before < MB
    assert largest_memory() - largest_before < 64 * MB


@pytest.mark.parametrize(
    ("name", "num_experts", "sparse_every"), [("mm1-3b-moe", 64, 2), ("mm1-7b-moe", 32, 4)]
)
def test_sparse_models_have_the_papers_experts_and_differ_from_the_dense_in_nothing_else(
    name, num_experts, sparse_every
):
    dense = preset(name.removesuffix("-moe"))
    experts = replace(dense.text_config, num_experts=num_experts, sparse_every=sparse_every)
    assert preset(name) == replace(dense, text_config=experts)


@pytest.mark.parametrize("name", DECODERS)
def test_every_model_pools_27_by_27_patches_of_378_pixels_to_144_visual_tokens(name):
    config = preset(name)
    assert (config.vision_config.image_size, config.image_config.image_size) == (378, 378)
    assert config.vision_config.grid_side == config.connector_config.position_grid == 27
    assert (config.connector_config.type, config.connector_config.num_visual_tokens) == ("c_abstractor", 144)


@pytest.mark.parametrize("name", DECODERS)
def test_the_context_holds_16_pictures_and_text(name):
    config = preset(name)
    assert config.text_config.max_positions == 4096
    assert 16 * config.connector_config.num_tokens(*config.patch_grid) < 4096


def test_the_weights_of_the_router_losses_are_the_papers():
    for decoder in DECODERS.values():
        assert (decoder.load_balance_weight, decoder.router_z_weight) == (0.01, 0.001)


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(ConfigError) as refusal:
        preset("mm1-13b")
    assert str(refusal.value) == (
        "no preset is named 'mm1-13b'; there are mm1-tiny, mm1-3b, mm1-7b, mm1-30b, mm1-3b-moe, mm1-7b-moe."
    )
