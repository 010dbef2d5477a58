"""Small models with seeded weights, tuned for a few steps so that no adapter is zero."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from small_models import SMALL

from mm1_mlx import MM1, load, quantize
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.files.identity import model_identity
from mm1_mlx.tuning import save_adapters
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import PartTuning, Tuning

FROZEN = PartTuning("frozen")
IDS = mx.array([[1, 5, *[SMALL.image_token_id] * 4, 40, 41]])
PIXELS = mx.random.normal((1, 16, 16, 3), key=mx.random.key(0))

SPARSE = replace(SMALL, text_config=replace(SMALL.text_config, num_experts=4, sparse_every=2, tied_head=True))
LLAMA = replace(
    SMALL,
    text_config=MlxLmDecoderConfig(
        {
            **{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5},
            **{"vocab_size": 768, "max_position_embeddings": 128, "rope_theta": 10_000.0},
            **{"tie_word_embeddings": False},
        }
    ),
)


def make(config=SMALL, *, bits=None):
    """Make the model of ``config``, with the same weights every time, in float32."""
    mx.random.seed(0)
    model = MM1(config)
    if bits is not None:
        quantize(model, bits=bits, group_size=32)
        model.set_dtype(mx.float32)
    model.eval()
    mx.eval(model.parameters())
    return model


def tuning(image_encoder=FROZEN, connector=FROZEN, decoder=FROZEN):
    return Tuning(image_encoder, connector, decoder)


def train(model, *, seed=1, steps=3):
    """Train a few steps, which change everything that is trained."""
    targets = mx.random.randint(5, 700, IDS.shape, key=mx.random.key(seed))

    def loss(model):
        return nn.losses.cross_entropy(model(IDS, pixel_values=PIXELS), targets).mean()

    optimizer = optim.Adam(1e-2)
    gradients_of = nn.value_and_grad(model, loss)
    for _ in range(steps):
        _, gradients = gradients_of(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
    return model


def make_trained(config, how, *, seed=1, **options):
    """Make a model of ``config``, prepare it with the tuning ``how`` and train it."""
    model = make(config, **options)
    mx.random.seed(seed)
    prepare(model, how)
    return train(model, seed=seed)


def save_adapter(folder, path, how, *, seed=1, dtype=None):
    """Tune the model of ``folder`` for a few steps and save its adapter."""
    model, _ = load(folder, dtype=dtype)
    identity = model_identity(model)
    prepare(model, how)
    save_adapters(train(model, seed=seed), how, path, base_identity=identity)


def compute_logits(model):
    return np.array(model(IDS, pixel_values=PIXELS).astype(mx.float32))
