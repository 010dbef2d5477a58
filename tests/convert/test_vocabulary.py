"""One more token for a decoder and its tokenizer, and where none can be added."""

import mlx.core as mx
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from convert.key_table import SAME, KeyTable, Move
from convert.recipe import EnlargedTensors, LoadedTensors, Part
from convert.vocabulary import add_token, enlarge_vocabulary
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.errors import CheckpointError


def test_new_rows_are_the_mean_of_the_others(tmp_path):
    table, bias = mx.random.normal((5000, 4), key=mx.random.key(0)), mx.arange(5000.0)
    arrays = {"table": table.astype(mx.float16), "bias": bias, "other": mx.zeros((2,))}
    tensors = EnlargedTensors(LoadedTensors(arrays, tmp_path, "decoder"), {"table", "bias"}, 2)
    assert {name: info.shape for name, info in tensors.infos.items()} == {
        "table": (5002, 4),
        "bias": (5002,),
        "other": (2,),
    }
    found = tensors.read("table")
    assert found.dtype == mx.float16 and mx.array_equal(found[:5000], table.astype(mx.float16))
    assert mx.allclose(found[5000:], table.mean(axis=0)[None], rtol=0, atol=1e-4)
    assert tensors.read("bias")[-2:].tolist() == [2499.5, 2499.5]
    assert tensors.read("other").tolist() == [0, 0]


def test_a_decoder_whose_tables_do_not_grow_with_its_vocabulary_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "model_dim": 32, "num_heads": 4, "num_layers": 1, "rotary_dim": 4}
    config = MlxLmDecoderConfig({"model_type": "phixtral", "vocab_size": 96, "num_vocab": 96} | sizes)
    name = "decoder.transformer.embd.wte.weight"
    part = Part(
        LoadedTensors({name: mx.zeros((96, 32))}, tmp_path, "decoder"), KeyTable({name: Move((name,), SAME)})
    )
    assert enlarge_vocabulary(config, part, 96) == (config, part)
    with pytest.raises(CheckpointError, match="phixtral has no tables with one row for each token"):
        enlarge_vocabulary(config, part, 97)


def test_a_tokenizer_whose_ids_have_gaps_is_refused():
    inside = Tokenizer(models.WordLevel({"a": 0, "b": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inside)
    with pytest.raises(CheckpointError, match="would get id 2, which another one has"):
        add_token(tokenizer, "<image>", 10)
