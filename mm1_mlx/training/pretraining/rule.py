"""MM1's learning rate, weight decay and schedule for pre-training, which follow from the size of the decoder.

Its authors searched the best learning rates of decoders with 9M to 1.2B parameters, and fitted a line to them on
logarithmic axes. For larger decoders they read the rate off that line.

Source: MM1, "Pre-training Details" and "Model Scaling".
"""

from __future__ import annotations

import math
from dataclasses import replace

import mlx.nn as nn

from mm1_mlx.config import DecoderConfig
from mm1_mlx.model.decoder import Decoder
from mm1_mlx.model.mlx_lm_parts import token_embedding
from mm1_mlx.model.mm1 import MM1, count_parameters

SLOPE, INTERCEPT = -0.4214, -0.5535  # of ln(rate) over ln(parameters)
DECAY = 0.1  # share of the weights that each update takes away, as a multiple of its learning rate
WARMUP = 2_000 / 200_000  # of the updates
FINAL_RATE = 0.1  # of the peak, where the cosine ends
BETAS = (0.9, 0.95)  # ours: the paper names none
CLIP_NORM = 1.0  # ours too


def peak_rate(num_parameters: int) -> float:
    """Return the best peak learning rate for a decoder with this many parameters, embeddings not counted."""
    return math.exp(SLOPE * math.log(num_parameters) + INTERCEPT)


def warmup_of(iters: int) -> int:
    """Return the number of warm-up updates: 2,000 of MM1's 200,000, and the same share of any other number."""
    return round(WARMUP * iters)


def count_for_rule(model: MM1) -> int:
    """Return how many parameters of the decoder count for the rule: all but its embedding table and its head.

    For a sparse decoder these are the parameters of the dense one with the same sizes, because MM1 trains both with
    the same settings.
    """
    decoder, config = model.decoder, model.config.text_config
    if isinstance(config, DecoderConfig):
        decoder = Decoder(replace(config, num_experts=0, sparse_every=0))
    total = count_parameters(decoder) - count_parameters(token_embedding(decoder, config.vocab_size))
    heads = [
        module
        for module in decoder.modules()
        if isinstance(module, nn.Linear) and len(module.weight) == config.vocab_size
    ]
    return total - sum(map(count_parameters, heads))
