from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.generate import generate_step
from mlx_lm.models import llama
from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache, make_prompt_cache

from mm1_mlx.config import DecoderConfig
from mm1_mlx.model.decoder import Decoder

VOCAB_SIZE = 50
DENSE = DecoderConfig(
    vocab_size=VOCAB_SIZE,
    hidden_dims=24,
    feed_forward_dims=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dims=16,
    max_positions=64,
    rope_theta=1000.0,
    norm_eps=1e-5,
    tied_head=True,
)
SPARSE = replace(DENSE, num_layers=4, num_experts=4, sparse_every=2)


def make(config, seed=0):
    """A decoder in which no weight, the norms' included, stands at its starting value."""
    mx.random.seed(seed)
    decoder = Decoder(config)
    decoder.update(tree_map(lambda w: w + 0.1 * mx.random.normal(w.shape), decoder.parameters()))
    mx.eval(decoder.parameters())
    return decoder


def random_ids(batch, length, seed=1):
    return mx.random.randint(0, VOCAB_SIZE, (batch, length), key=mx.random.key(seed))


def assert_close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=tolerance)


def in_pieces(decoder, ids, sizes, cache):
    """Logits of all positions, read a few tokens at a time."""
    stops = np.cumsum(sizes)
    pieces = [decoder(ids[:, stop - n : stop], cache=cache) for n, stop in zip(sizes, stops, strict=True)]
    return mx.concatenate(pieces, axis=1)


@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_a_dense_decoder_equals_mlx_lms_llama(tied_head, num_kv_heads):
    config = replace(DENSE, tied_head=tied_head, num_kv_heads=num_kv_heads)
    decoder = make(config)
    theirs = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=config.hidden_dims,
            num_hidden_layers=config.num_layers,
            intermediate_size=config.feed_forward_dims,
            num_attention_heads=config.num_heads,
            num_key_value_heads=num_kv_heads,
            head_dim=config.head_dims,
            rms_norm_eps=config.norm_eps,
            vocab_size=config.vocab_size,
            rope_theta=config.rope_theta,
            tie_word_embeddings=tied_head,
        )
    )
    weights = tree_flatten(decoder.parameters())
    renamed = [(k if k.startswith("lm_head.") else f"model.{k}", v) for k, v in weights]
    theirs.load_weights(renamed, strict=True)
    ids = random_ids(2, 12)
    assert_close(decoder(ids), theirs(ids))


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    "sizes", [[1] * 40, [40], [33, 1, 5, 1]], ids=["token by token", "at once", "in chunks"]
)
def test_reading_with_a_cache_equals_one_pass(config, sizes):
    decoder = make(config)
    ids = random_ids(2, 40)  # 160 choices of experts at once are sorted by mlx-lm, a few are not
    assert_close(in_pieces(decoder, ids, sizes, make_prompt_cache(decoder)), decoder(ids))


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_a_batch_equals_its_rows_one_by_one(config):
    decoder = make(config)
    ids = random_ids(3, 11)
    assert_close(decoder(ids), mx.concatenate([decoder(row[None]) for row in ids]))


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_logits_do_not_depend_on_later_tokens(config):
    decoder = make(config)
    ids = random_ids(1, 10)
    changed = mx.concatenate([ids[:, :6], (ids[:, 6:] + 1) % VOCAB_SIZE], axis=1)
    before, after = decoder(ids), decoder(changed)
    assert_close(before[:, :6], after[:, :6], tolerance=1e-6)
    assert mx.all(mx.abs(before - after)[:, 6:].max(axis=-1) > 1e-3)


def test_logits_depend_on_the_order_of_earlier_tokens():
    decoder = make(DENSE)
    assert not mx.allclose(
        decoder(mx.array([[1, 2, 3]]))[:, -1], decoder(mx.array([[2, 1, 3]]))[:, -1], atol=1e-3
    )


def test_input_embeddings_take_the_place_of_ids():
    decoder = make(replace(DENSE, embedding_multiplier=3.0))
    ids = random_ids(2, 7)
    assert_close(decoder(input_embeddings=decoder.embed(ids)), decoder(ids), tolerance=0)
    assert_close(decoder(ids + 1, input_embeddings=decoder.embed(ids)), decoder(ids), tolerance=0)


@pytest.mark.parametrize("tied_head", [True, False])
def test_logits_of_some_places_are_those_of_all_at_these_places(tied_head):
    decoder, ids, places = make(replace(DENSE, tied_head=tied_head)), random_ids(2, 9), mx.array([0, 5, 8])
    assert_close(decoder(ids, places=places), decoder(ids)[:, places])


def test_the_embedding_multiplier_scales_what_is_read_and_not_a_tied_head():
    plain, scaled = make(DENSE), make(replace(DENSE, embedding_multiplier=3.0))
    ids = random_ids(1, 7)
    assert_close(scaled.embed(ids), 3 * plain.embed_tokens.weight[ids])
    assert_close(scaled(ids), plain(input_embeddings=3 * plain.embed(ids)))


def test_the_residual_multiplier_scales_what_attention_and_feed_forward_add():
    scaled, plain = make(replace(DENSE, residual_multiplier=0.3)), make(DENSE)
    for layer in plain.layers:
        layer.self_attn.o_proj.weight *= 0.3
        layer.mlp.down_proj.weight *= 0.3
    ids = random_ids(1, 7)
    assert_close(scaled(ids), plain(ids))


def test_the_attention_multiplier_scales_the_products_of_queries_and_keys():
    scaled, plain = make(replace(DENSE, attention_multiplier=0.7)), make(DENSE)
    for layer in plain.layers:
        layer.self_attn.q_proj.weight *= 0.7 * DENSE.head_dims**0.5
    ids = random_ids(1, 7)
    assert_close(scaled(ids), plain(ids))


def test_no_attention_multiplier_means_one_over_the_root_of_the_head_width():
    ids = random_ids(1, 7)
    named = make(replace(DENSE, attention_multiplier=1 / DENSE.head_dims**0.5))
    assert_close(named(ids), make(DENSE)(ids), tolerance=0)


@pytest.mark.parametrize("tied_head", [True, False])
def test_the_logits_multiplier_scales_the_logits(tied_head):
    config = replace(DENSE, tied_head=tied_head)
    ids = random_ids(1, 7)
    assert_close(make(replace(config, logits_multiplier=0.25))(ids), 0.25 * make(config)(ids))


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_mlx_lm_generates_the_tokens_that_full_passes_prefer(config):
    decoder = make(config)
    ids = random_ids(1, 5)
    generated = [token for token, _ in generate_step(ids[0], decoder, max_tokens=6, prefill_step_size=2)]
    for _ in range(6):
        ids = mx.concatenate([ids, mx.argmax(decoder(ids)[:, -1:], axis=-1)], axis=1)
    assert generated == ids[0, 5:].tolist()


def test_with_a_rotating_cache_a_layer_sees_the_last_tokens_alone():
    decoder = make(replace(DENSE, num_layers=1))
    ids, cache = random_ids(1, 20), [RotatingKVCache(max_size=6)]
    for t in range(20):
        window = decoder(ids[:, max(0, t - 5) : t + 1])
        assert_close(decoder(ids[:, t : t + 1], cache=cache)[:, -1], window[:, -1], tolerance=1e-4)


@pytest.mark.parametrize("sizes", [[1] * 16, [9, 1, 5, 1]], ids=["token by token", "in chunks"])
def test_a_cache_of_8_bits_is_near_one_pass(sizes):
    decoder = make(replace(DENSE, head_dims=32))
    ids = random_ids(2, 16)
    cache = [QuantizedKVCache(group_size=32, bits=8) for _ in decoder.layers]
    exact = decoder(ids)
    error = mx.abs(in_pieces(decoder, ids, sizes, cache) - exact)
    assert error.mean() < 0.02 * mx.abs(exact).mean()


def test_mlx_lm_packs_the_cache_while_it_generates():
    decoder = make(replace(DENSE, head_dims=32))
    ids, cache = random_ids(1, 8)[0], make_prompt_cache(decoder)
    settings = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0, "prompt_cache": cache}
    assert len(list(generate_step(ids, decoder, max_tokens=4, **settings))) == 4
    assert all(isinstance(c, QuantizedKVCache) for c in cache)
