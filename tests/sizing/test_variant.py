"""Models cut or changed to be measured."""

from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.presets import DECODERS
from mm1_mlx.sizing.variant import keep_first_layers


def test_the_first_layers_of_a_sparse_decoder_are_dense():
    sparse = DECODERS["mm1-7b-moe"]
    first, four = (keep_first_layers(sparse, layers) for layers in (3, 4))
    assert (first.num_layers, first.num_experts) == (3, 0)
    assert (four.num_layers, four.num_experts) == (4, 32) and four.is_sparse(3)


def test_a_decoder_of_mlx_lm_is_cut_with_its_lists():
    values = {"model_type": "qwen3", "hidden_size": 8, "vocab_size": 9, "num_hidden_layers": 3}
    cut = keep_first_layers(MlxLmDecoderConfig(values | {"layer_types": ["a", "b", "c"]}), 2)
    assert cut.values["num_hidden_layers"] == 2 and cut.values["layer_types"] == ["a", "b"]
