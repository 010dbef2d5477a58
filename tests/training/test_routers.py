"""The routers of a sparse decoder learn to use their experts evenly, and are left alone where they are frozen."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from small_models import SMALL

from mm1_mlx import MM1
from mm1_mlx.data.packing import Packed, idle_sequence, logits_of
from mm1_mlx.model.mixture_of_experts import load_balance_loss
from mm1_mlx.training.checkpointing import checkpoint_layers
from mm1_mlx.training.objective import loss_sum, objective
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import PartTuning, Tuning
from mm1_mlx.vision.look import FrozenOutput, embed_pictures

NO_PICTURES = FrozenOutput(visual_tokens=[])
FROZEN = PartTuning("frozen")
LENGTH, TOKENS = 64, 50  # the rest is padding


def make(*, num_experts=4, **changes):
    mx.random.seed(0)
    text = replace(SMALL.text_config, num_experts=num_experts, sparse_every=int(num_experts > 0), **changes)
    model = MM1(replace(SMALL, text_config=text)).train()
    mx.eval(model.parameters())
    return model


def sequence():
    positions = mx.arange(LENGTH)
    ids = mx.random.randint(10, 200, (LENGTH,), key=mx.random.key(1))
    rows, learned = mx.where(positions < TOKENS, 0, -1), (positions > 3) & (positions < TOKENS)
    return Packed(("row",), ids, learned, rows, (), num_learned=TOKENS - 4, num_tokens=TOKENS)


def routings_of(model, packed):
    routings = []
    logits_of(model, packed, embed_pictures(model, packed.ids, (), NO_PICTURES), routings)
    return [routing.keep_first(packed.num_tokens) for routing in routings]


def test_the_routers_loss_counts_once_for_each_learned_token():
    model, packed = make(), sequence()
    whole, language = objective(model, packed, NO_PICTURES)
    expected = model.decoder.router_loss(routings_of(model, packed))
    np.testing.assert_allclose(((whole - language) / packed.num_learned).item(), expected.item(), rtol=1e-3)
    assert language.item() == loss_sum(model, packed, NO_PICTURES).item()


def test_padding_does_not_count_for_the_routers():
    model, packed = make(load_balance_weight=10.0), sequence()
    other = replace(packed, ids=mx.where(packed.rows < 0, 7, packed.ids))
    whole, again = (objective(model, each, NO_PICTURES)[0].item() for each in (packed, other))
    assert whole == pytest.approx(again, rel=1e-6)


@pytest.mark.parametrize(
    "decoder",
    [FROZEN, PartTuning("lora", keys=("self_attn.q_proj",)), PartTuning("lora", keys=("*.down_proj",))],
    ids=["frozen", "attention alone", "experts alone"],
)
def test_frozen_routers_add_nothing(decoder):
    model = make()
    prepare(model, Tuning(FROZEN, PartTuning("full"), decoder))
    whole, language = objective(model, sequence(), NO_PICTURES)
    assert whole.item() == language.item()


@pytest.mark.parametrize("decoder", [PartTuning("full"), PartTuning("lora", rank=2)], ids=lambda own: own.how)
def test_routers_that_learn_add_their_loss(decoder):
    model = make()
    prepare(model, Tuning(FROZEN, FROZEN, decoder))
    whole, language = objective(model, sequence(), NO_PICTURES)
    assert whole.item() > language.item()


def test_a_dense_decoder_and_an_idle_process_have_no_routers_loss():
    for model, packed in ((make(num_experts=0), sequence()), (make(), idle_sequence())):
        whole, language = objective(model, packed, NO_PICTURES)
        assert whole.item() == language.item()


def test_gradients_of_routers_are_the_same_when_layers_are_computed_twice():
    model, packed = make(), sequence()
    gradients_of = nn.value_and_grad(model, objective)
    _, once = gradients_of(model, packed, NO_PICTURES)
    with checkpoint_layers(model):
        _, twice = gradients_of(model, packed, NO_PICTURES)
    for (key, one), (_, other) in zip(tree_flatten(once), tree_flatten(twice), strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-5, atol=1e-6, err_msg=key)


def test_training_spreads_the_work_over_the_experts():
    def balance_after(weight):
        model, packed = make(load_balance_weight=weight), sequence()
        for layer in model.decoder.layers:  # all tokens prefer the first expert
            layer.mlp.router.weight[0] = layer.mlp.router.weight[0] + 0.5
        optimizer, gradients_of = optim.Adam(2e-3), nn.value_and_grad(model, objective)
        for _ in range(40):
            _, gradients = gradients_of(model, packed, NO_PICTURES)
            optimizer.update(model, gradients)
            mx.eval(model.parameters(), optimizer.state)
        return np.mean([load_balance_loss(routing).item() for routing in routings_of(model, packed)])

    assert balance_after(0.3) < 1.05 < balance_after(0.0)
