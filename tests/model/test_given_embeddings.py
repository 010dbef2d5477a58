"""Decoders of mlx-lm read embeddings through their table of tokens: for one call, in one thread, with no trace left."""

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from decoder_values import VOCABULARY, values_of
from mlx.utils import tree_flatten

from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.model.decoder import make_decoder
from mm1_mlx.model.given_embeddings import give, measure_scale, read_embeddings
from mm1_mlx.model.mlx_lm_parts import token_embedding

IDS = mx.array([[1, 2, 3, 4, 5]])


def make(name, **values):
    mx.random.seed(0)
    decoder = make_decoder(MlxLmDecoderConfig(values_of(name) | values))
    return decoder, token_embedding(decoder, VOCABULARY)


def test_a_decoder_that_takes_ids_alone_reads_embeddings():
    decoder, table = make("phi3")
    expected = decoder(IDS)
    assert mx.array_equal(read_embeddings(decoder, table, table(IDS)), expected)
    assert not mx.allclose(read_embeddings(decoder, table, table(IDS) * 2), expected)


def test_after_the_call_ids_are_looked_up_again_and_parameters_have_their_names():
    decoder, table = make("phi3")
    names = [name for name, _ in tree_flatten(decoder.parameters())]
    expected = decoder(IDS)
    read_embeddings(decoder, table, mx.zeros((1, 5, 32)))
    assert mx.array_equal(decoder(IDS), expected)
    assert [name for name, _ in tree_flatten(decoder.parameters())] == names
    assert isinstance(table, nn.Embedding) and type(table).__name__ == "Embedding"


def test_an_error_inside_leaves_nothing_given():
    decoder, table = make("phi3")
    expected = decoder(IDS)
    with pytest.raises(RuntimeError, match="inside"), give(table, mx.zeros((1, 5, 32))):
        raise RuntimeError("inside")
    assert mx.array_equal(decoder(IDS), expected)


def test_another_thread_looks_ids_up():
    _, table = make("phi3")
    rows, found = np.array(table(IDS)), []

    def look_up():
        with mx.stream(mx.new_stream(mx.default_device())):
            found.append(np.array(table(IDS)))

    with give(table, mx.zeros((1, 5, 32))):
        thread = threading.Thread(target=look_up)
        thread.start()
        thread.join()
        assert not np.array(table(IDS)).any()
    assert np.array_equal(found, [rows])


def test_a_packed_table_gives_way_too():
    decoder, _ = make("phi3", hidden_size=64, num_attention_heads=2, head_dim=32, num_key_value_heads=2)
    nn.quantize(decoder, group_size=64, bits=8)
    table = token_embedding(decoder, VOCABULARY)
    assert isinstance(table, nn.QuantizedEmbedding)
    assert mx.array_equal(read_embeddings(decoder, table, table(IDS)), decoder(IDS))


@pytest.mark.parametrize(("tied", "head"), [(True, nn.Embedding), (False, nn.Linear)])
def test_a_head_computes_the_logits_of_the_places_alone(monkeypatch, tied, head):
    decoder, table = make("phi3", tie_word_embeddings=tied)
    expected, name, rows = decoder(IDS), "as_linear" if tied else "__call__", []
    plain = getattr(head, name)

    def counted(self, x):
        if self is table or self is decoder["lm_head"]:
            rows.append(x.shape[1])
        return plain(self, x)

    monkeypatch.setattr(head, name, counted)
    found = read_embeddings(decoder, table, table(IDS), places=mx.array([0, 3]))
    np.testing.assert_allclose(found, expected[:, mx.array([0, 3])], rtol=1e-5, atol=1e-6)
    assert rows == [2]
    assert mx.array_equal(decoder(IDS), expected)


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("llama", {}, 1),
        ("gemma3_text", {}, 32**0.5),
        ("gemma2", {}, 32**0.5),
        ("granite", {"embedding_multiplier": 12.0}, 12),
        ("minicpm", {"scale_emb": 3}, 3),
    ],
)
def test_the_scale_is_what_a_decoder_multiplies_its_embeddings_by(name, values, scale):
    decoder, table = make(name, **values)
    assert measure_scale(decoder, table, 32) == pytest.approx(scale, rel=0.01)  # Gemma rounds it to bfloat16
