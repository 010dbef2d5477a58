"""Two towers and their losses: against the formulas, and what a readout must not depend on."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from small_models import SMALL

from mm1_mlx.model.contrastive import LARGEST_SCALE, Contrastive, clip_loss, siglip_loss
from mm1_mlx.model.image_encoder import ImageEncoder

TOWER = replace(SMALL.text_config, tied_head=True)


@pytest.fixture(scope="module")
def model():
    mx.random.seed(0)
    return Contrastive(ImageEncoder(SMALL.vision_config), TOWER, 24, scale=10.0)


def unit(number, seed):
    x = np.random.default_rng(seed).normal(size=(number, 8))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_clips_loss_is_the_mean_of_two_cross_entropies():
    images, texts = unit(5, 0), unit(5, 1)
    logits = 7 * images @ texts.T
    expected = -(np.diag(log_softmax(logits)) + np.diag(log_softmax(logits.T))).sum() / 2
    assert clip_loss(mx.array(images), mx.array(texts), mx.array(math.log(7))).item() == pytest.approx(
        expected
    )


def test_siglips_loss_is_a_cross_entropy_for_each_of_all_pairs():
    images, texts = unit(5, 0), unit(5, 1)
    logits = 7 * images @ texts.T - 2
    expected = sum(
        -math.log(1 / (1 + math.exp(-(1 if i == j else -1) * logits[i, j])))
        for i in range(5)
        for j in range(5)
    )
    found = siglip_loss(mx.array(images), mx.array(texts), mx.array(math.log(7)), mx.array(-2.0))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_losses_are_least_where_pairs_lie_side_by_side():
    same, other = mx.eye(4, 8), mx.eye(4, 8)[::-1]
    scale, bias = mx.array(math.log(20)), mx.array(-5.0)
    assert clip_loss(same, same, scale).item() < clip_loss(same, other, scale).item()
    assert siglip_loss(same, same, scale, bias).item() < siglip_loss(same, other, scale, bias).item()


def test_embeddings_are_unit_vectors(model):
    pixels = mx.random.normal((3, 16, 16, 3), key=mx.random.key(0))
    ids = mx.array([[1, 5, 2, 0], [1, 9, 9, 2], [1, 2, 0, 0]])
    for found in (model.embed_images(pixels), model.embed_texts(ids, mx.array([3, 4, 2]))):
        assert found.shape == (3, 24) and found.dtype == mx.float32
        np.testing.assert_allclose(mx.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_text_is_read_at_its_last_token_whatever_stands_behind(model):
    lengths = mx.array([3, 3, 4])
    found = model.embed_texts(mx.array([[1, 5, 2, 0], [1, 5, 2, 77], [1, 5, 2, 77]]), lengths)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert np.abs(np.array(found[2] - found[1])).max() > 1e-3


def test_the_scale_is_held_at_a_hundred(model):
    before, model.log_scale = model.log_scale, mx.array(9.0)
    model.clip_scale()
    assert mx.exp(model.log_scale).item() == pytest.approx(LARGEST_SCALE)
    model.log_scale = before
    model.clip_scale()
    assert model.log_scale.item() == before.item()
