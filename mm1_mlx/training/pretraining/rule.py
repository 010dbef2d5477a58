"""What MM1 takes for rate, decay and schedule of its pre-training, from the size of the decoder.

Its authors searched the best rate of decoders of 9M to 1.2B parameters and laid a line through them, on logarithmic
axes. Larger decoders take theirs from the line.

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
DECAY = 0.1  # of the weights at each update, as a share of its rate
WARMUP = 2_000 / 200_000  # of the updates
FINAL_RATE = 0.1  # of the peak, where the cosine ends
BETAS = (0.9, 0.95)  # ours: the paper names none
CLIP_NORM = 1.0  # ours too


def peak_rate(num_parameters: int) -> float:
    """Return the best peak learning rate of a decoder with so many parameters, those of embeddings not counted."""
    return math.exp(SLOPE * math.log(num_parameters) + INTERCEPT)


def warmup_of(iters: int) -> int:
    """Return the updates from 0 to the peak: 2,000 of 200,000, and as large a share of any other number."""
    return round(WARMUP * iters)


def num_counted(model: MM1) -> int:
    """Return how many parameters of the decoder count for the rule: all but the vocabulary's table and its head.

    Of a sparse decoder it is those of the dense one that it was made of: MM1 trains both with one set of values.
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
