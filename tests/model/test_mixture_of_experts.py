import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mm1_mlx.config import DecoderConfig
from mm1_mlx.model.decoder import Decoder, FeedForward
from mm1_mlx.model.mixture_of_experts import (
    MixtureOfExperts,
    Routing,
    expert_use,
    first_choices,
    load_balance_loss,
    router_z_loss,
)

DIMS, NUM_EXPERTS = 12, 5


def make_layer(seed=0):
    mx.random.seed(seed)
    layer = MixtureOfExperts(DIMS, 20, NUM_EXPERTS)
    layer.router.weight *= 4  # preferences far apart
    return layer


def make_decoder(**sizes):
    mx.random.seed(0)
    values = {
        "vocab_size": 30,
        "hidden_dims": 16,
        "feed_forward_dims": 24,
        "num_layers": 4,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dims": 8,
        "max_positions": 64,
        "rope_theta": 1000.0,
        "norm_eps": 1e-5,
        "tied_head": True,
        "num_experts": NUM_EXPERTS,
        "sparse_every": 2,
    }
    return Decoder(DecoderConfig(**(values | sizes)))


def random_tokens(batch, length, seed=1):
    return mx.random.normal((batch, length, DIMS), key=mx.random.key(seed))


def float64(x):
    return np.array(x.astype(mx.float32)).astype(np.float64)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def one_token_at_a_time(layer, x):
    """The layer's output by its definition: each token, its two experts, their gates."""
    gate, up, down = (
        float64(proj.weight)
        for proj in (layer.experts.gate_proj, layer.experts.up_proj, layer.experts.down_proj)
    )
    tokens = float64(x).reshape(-1, DIMS)
    outputs = np.zeros_like(tokens)
    for t, token in enumerate(tokens):
        p = softmax(float64(layer.router.weight) @ token)
        first, second = np.argsort(-p)[:2]
        for e in (first, second):
            hidden = gate[e] @ token
            hidden = hidden / (1 + np.exp(-hidden)) * (up[e] @ token)
            outputs[t] += p[e] / (p[first] + p[second]) * (down[e] @ hidden)
    return outputs.reshape(x.shape)


def balance_by_the_formula(routing):
    """E^2 mean_e(mean_s[top1 == e] mean_s[p_e])."""
    p = softmax(float64(routing.logits)).reshape(-1, routing.logits.shape[-1])
    top1 = np.eye(p.shape[-1])[p.argmax(axis=-1)]
    return p.shape[-1] ** 2 * np.mean(top1.mean(axis=0) * p.mean(axis=0))


def z_by_the_formula(routing):
    """mean(logsumexp(logits)^2)."""
    return np.mean(np.log(np.exp(float64(routing.logits)).sum(axis=-1)) ** 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (1, 31), (1, 32), (3, 40)])
def test_the_output_is_the_gated_sum_of_each_tokens_two_experts(shape):
    layer, x = make_layer(), random_tokens(*shape)  # mlx-lm sorts from 64 choices on, which is 32 tokens
    np.testing.assert_allclose(np.array(layer(x)[0]), one_token_at_a_time(layer, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [20, 100])
def test_no_token_is_dropped_when_all_choose_one_expert(length):
    layer, x = make_layer(), random_tokens(1, length)
    x[..., 0] = 1
    layer.router.weight[3, 0] = 50
    assert mx.all(layer.route(x).experts[..., 0] == 3)
    np.testing.assert_allclose(np.array(layer(x)[0]), one_token_at_a_time(layer, x), rtol=0, atol=1e-5)


def test_the_gates_of_a_token_sum_to_1():
    gates = make_layer().route(random_tokens(2, 50)).gates
    np.testing.assert_allclose(np.array(gates.sum(axis=-1)), 1, rtol=0, atol=1e-6)


def test_experts_and_gates_are_the_two_largest_probabilities_the_first_choice_first():
    layer, x = make_layer(), random_tokens(2, 50)
    routing = layer.route(x)
    p = softmax(float64(x) @ float64(layer.router.weight).T)
    top = np.argsort(-p, axis=-1)[..., :2]
    np.testing.assert_array_equal(np.array(routing.experts), top)
    chosen = np.take_along_axis(p, top, axis=-1)
    gates = chosen / chosen.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.array(routing.gates), gates, rtol=0, atol=1e-6)


def test_the_router_computes_in_float32_when_the_weights_are_float16():
    layer, x = make_layer(), random_tokens(1, 50).astype(mx.float16)
    layer.set_dtype(mx.float16)
    routing = layer.route(x)
    expected = float64(x) @ float64(layer.router.weight).T
    assert routing.logits.dtype == routing.gates.dtype == mx.float32
    np.testing.assert_allclose(np.array(routing.logits), expected, rtol=0, atol=1e-5)
    assert np.abs(float64(layer.router(x)) - expected).max() > 1e-3  # what float16 would have given


def test_the_output_has_the_type_of_the_input():
    layer, x = make_layer(), random_tokens(1, 5).astype(mx.float16)
    layer.set_dtype(mx.float16)
    assert layer(x)[0].dtype == mx.float16


def test_the_load_balance_loss_is_the_papers_formula():
    routing = make_layer().route(random_tokens(3, 40))
    np.testing.assert_allclose(load_balance_loss(routing).item(), balance_by_the_formula(routing), rtol=1e-5)


def test_the_load_balance_loss_of_a_uniform_router_is_1():
    layer = make_layer()
    layer.router.weight = mx.zeros_like(layer.router.weight)
    np.testing.assert_allclose(load_balance_loss(layer.route(random_tokens(2, 9))).item(), 1, rtol=1e-6)


def test_the_load_balance_loss_is_the_number_of_experts_when_one_takes_all():
    logits = mx.broadcast_to(100.0 * (mx.arange(NUM_EXPERTS) == 2), (1, 7, NUM_EXPERTS))
    experts = mx.broadcast_to(mx.array([2, 0]), (1, 7, 2))
    routing = Routing(logits, experts, mx.broadcast_to(mx.array([1.0, 0.0]), (1, 7, 2)))
    np.testing.assert_allclose(load_balance_loss(routing).item(), NUM_EXPERTS, rtol=1e-6)


def test_the_router_z_loss_is_the_mean_square_of_logsumexp():
    routing = make_layer().route(random_tokens(3, 40))
    np.testing.assert_allclose(router_z_loss(routing).item(), z_by_the_formula(routing), rtol=1e-5)


def test_the_router_loss_weighs_balance_by_001_and_z_by_0001_over_the_mean_of_sparse_layers():
    decoder, routings = make_decoder(), []
    decoder(mx.random.randint(0, 30, (2, 20), key=mx.random.key(3)), routings=routings)
    balance = np.mean([balance_by_the_formula(r) for r in routings])
    z = np.mean([z_by_the_formula(r) for r in routings])
    np.testing.assert_allclose(decoder.router_loss(routings).item(), 0.01 * balance + 0.001 * z, rtol=1e-5)


def test_the_router_loss_takes_its_weights_from_the_configuration():
    decoder, routings = make_decoder(load_balance_weight=2.0, router_z_weight=0.0), []
    decoder(mx.random.randint(0, 30, (1, 20), key=mx.random.key(3)), routings=routings)
    balance = np.mean([balance_by_the_formula(r) for r in routings])
    np.testing.assert_allclose(decoder.router_loss(routings).item(), 2 * balance, rtol=1e-5)


def test_every_sparse_layer_reports_its_routing_once():
    ids = mx.zeros((1, 6), dtype=mx.int32)
    for sizes, expected in (({}, 2), ({"sparse_every": 4}, 1), ({"num_experts": 0, "sparse_every": 0}, 0)):
        routings = []
        make_decoder(**sizes)(ids, routings=routings)
        assert [r.logits.shape for r in routings] == [(1, 6, NUM_EXPERTS)] * expected


def test_expert_use_and_first_choices_are_shares():
    experts = mx.array([[[0, 1], [0, 2], [1, 0]]])
    routing = Routing(mx.zeros((1, 3, 4)), experts, mx.full((1, 3, 2), 0.5))
    np.testing.assert_allclose(np.array(expert_use(routing)), [3 / 6, 2 / 6, 1 / 6, 0], atol=1e-6)
    np.testing.assert_allclose(np.array(first_choices(routing)), [2 / 3, 1 / 3, 0, 0], atol=1e-6)


def test_expert_use_sums_to_1():
    routing = make_layer().route(random_tokens(2, 33))
    np.testing.assert_allclose(expert_use(routing).sum().item(), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("sparse_every", "expected"), [(1, range(8)), (2, [1, 3, 5, 7]), (4, [3, 7]), (8, [7])]
)
def test_the_last_of_every_k_layers_is_sparse(sparse_every, expected):
    decoder = make_decoder(num_layers=8, sparse_every=sparse_every)
    assert [i for i in range(8) if decoder.config.is_sparse(i)] == list(expected)
    assert [i for i, layer in enumerate(decoder.layers) if isinstance(layer.mlp, MixtureOfExperts)] == list(
        expected
    )


def test_no_layer_of_a_dense_decoder_is_sparse():
    decoder = make_decoder(num_experts=0, sparse_every=0)
    assert not any(decoder.config.is_sparse(i) for i in range(4))
    assert all(isinstance(layer.mlp, FeedForward) for layer in decoder.layers)


@pytest.mark.parametrize("length", [8, 80])
def test_gradients_reach_the_router_and_just_the_experts_that_were_chosen(length):
    layer, x = make_layer(), random_tokens(1, length)
    x[..., 0] = 1
    layer.router.weight[4, 0] = -50  # nobody's choice
    _, gradients = nn.value_and_grad(layer, lambda x: mx.square(layer(x)[0]).sum())(x)
    used = np.array(expert_use(layer.route(x))) > 0
    assert used.sum() == NUM_EXPERTS - 1
    assert mx.abs(gradients["router"]["weight"]).max() > 1e-3
    for key, gradient in tree_flatten(gradients["experts"]):
        largest = np.array(mx.abs(gradient).max(axis=(1, 2)))
        np.testing.assert_array_equal(largest > 0, used, err_msg=key)


def test_the_routers_gradient_is_the_slope_of_the_output():
    layer, x = make_layer(), random_tokens(1, 6)

    def loss(x):
        return mx.square(layer(x)[0]).sum()

    _, gradients = nn.value_and_grad(layer, loss)(x)
    weight, step = layer.router.weight, 1e-2
    direction = gradients["router"]["weight"] / mx.linalg.norm(gradients["router"]["weight"])
    layer.router.weight = weight + step * direction
    up = loss(x)
    layer.router.weight = weight - step * direction
    slope = (up - loss(x)).item() / (2 * step)
    np.testing.assert_allclose(slope, mx.linalg.norm(gradients["router"]["weight"]).item(), rtol=0.02)


def test_the_router_loss_trains_the_routers_alone():
    decoder = make_decoder(num_layers=1, sparse_every=1)
    layer = decoder.layers[0].mlp
    x = mx.random.normal((1, 9, 16), key=mx.random.key(5))

    def loss(x):
        return decoder.router_loss([layer.route(x)])

    _, gradients = nn.value_and_grad(layer, loss)(x)
    assert mx.abs(gradients["router"]["weight"]).max() > 1e-5
    assert all(mx.abs(g).max() == 0 for _, g in tree_flatten(gradients["experts"]))
