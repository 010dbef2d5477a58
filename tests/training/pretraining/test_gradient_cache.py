"""The gradient in chunks is the gradient of the whole batch."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mm1_mlx.model.contrastive import clip_loss, siglip_loss
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.pretraining.gradient_cache import compute_pulls

DIMS = 6


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        mx.random.seed(3)
        self.image, self.text = nn.Linear(5, DIMS), nn.Linear(7, DIMS)
        self.log_scale, self.bias = mx.array(1.2), mx.array(-1.0)

    def embed(self, chunk):
        return tuple(
            x / mx.linalg.norm(x, axis=1, keepdims=True) for x in (self.image(chunk[0]), self.text(chunk[1]))
        )


def others(model, loss):
    return [model.log_scale] if loss is clip_loss else [model.log_scale, model.bias]


def batch(number):
    keys = mx.random.split(mx.random.key(1))
    return mx.random.normal((number, 5), key=keys[0]), mx.random.normal((number, 7), key=keys[1])


def in_chunks(arrays, sizes):
    starts = np.cumsum([0, *sizes])
    return [
        tuple(side[a:b] for side in arrays)
        for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]


@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [5, 1, 6]])
def test_gradients_are_those_of_the_batch_at_once(loss, sizes):
    model, arrays = Towers(), batch(12)

    def whole(model):
        return loss(*model.embed(arrays), *others(model, loss))

    value, expected = nn.value_and_grad(model, whole)(model)
    chunks = in_chunks(arrays, sizes)
    found = compute_pulls(
        [model.embed(chunk) for chunk in chunks], others(model, loss), loss, dims=DIMS, processes=Processes()
    )
    total = tree_map(mx.zeros_like, expected)
    for chunk, pull in zip(chunks, found, strict=True):

        def pulled(model, chunk=chunk, pull=pull):
            return pull.of(*model.embed(chunk), others(model, loss))

        _, gradients = nn.value_and_grad(model, pulled)(model)
        total = tree_map(mx.add, total, gradients)
    assert sum(pull.loss.item() for pull in found) == pytest.approx(value.item(), rel=1e-6)
    for (name, gradient), (_, other) in zip(tree_flatten(total), tree_flatten(expected), strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-5, err_msg=name)


def test_pairs_whose_text_is_nearest_are_counted():
    same = mx.eye(4, DIMS)
    (pull,) = compute_pulls([(same, same)], [mx.array(0.0)], clip_loss, dims=DIMS, processes=Processes())
    assert pull.num_right.item() == 4
    (pull,) = compute_pulls(
        [(same, same[::-1])], [mx.array(0.0)], clip_loss, dims=DIMS, processes=Processes()
    )
    assert pull.num_right.item() == 0


def test_no_pairs_pull_nothing():
    assert compute_pulls([], [mx.array(0.0)], clip_loss, dims=DIMS, processes=Processes()) == []
