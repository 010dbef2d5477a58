"""Sparse feed-forward layers: every token goes to the two experts that its router prefers.

Source: MM1, "Scaling via Mixture-of-Experts"; the losses as in GShard (arXiv:2006.16668) and ST-MoE
(arXiv:2202.08906).
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from mm1_mlx.model.mlx_lm_parts import SwitchGLU


class Routing(NamedTuple):
    """What one sparse layer's router decided, for the losses and for reports."""

    logits: Float[mx.array, "B L X"]  # float32, one per expert
    experts: Integer[mx.array, "B L 2"]  # the first choice comes first
    gates: Float[mx.array, "B L 2"]  # sum to 1

    def of_first(self, length: int) -> Routing:
        """Of the first so many positions: what stands behind them is padding."""
        return Routing(*(array[:, :length] for array in self))


class MixtureOfExperts(nn.Module):
    """Top-2 routing over SwiGLU experts, in float32, the two gates renormalised to sum 1.

    Every token reaches both its experts: there is no capacity limit, so none is dropped.
    """

    def __init__(self, dims: int, hidden_dims: int, num_experts: int):
        super().__init__()
        self.router = nn.Linear(dims, num_experts, bias=False)
        self.experts = SwitchGLU(dims, hidden_dims, num_experts)

    def route(self, x: Float[mx.array, "B L D"]) -> Routing:
        logits = self.router(x.astype(mx.float32))
        experts = mx.stop_gradient(mx.argsort(-logits, axis=-1)[..., :2])
        gates = mx.take_along_axis(mx.softmax(logits, axis=-1), experts, axis=-1)
        return Routing(logits, experts.astype(mx.int32), gates / gates.sum(axis=-1, keepdims=True))

    def __call__(self, x: Float[mx.array, "B L D"]) -> tuple[Float[mx.array, "B L D"], Routing]:
        routing = self.route(x)
        y = self.experts(x, routing.experts)
        return (y * routing.gates[..., None]).sum(axis=-2).astype(x.dtype), routing


def load_balance_loss(routing: Routing) -> Float[mx.array, ""]:
    """1 when all experts are used alike, more the more uneven: ``X sum_e(f_e p_e)``.

    f_e is the share of tokens whose first choice is expert e, p_e its mean probability.
    """
    num_experts = routing.logits.shape[-1]
    probabilities = mx.softmax(routing.logits, axis=-1).reshape(-1, num_experts)
    return num_experts * mx.sum(first_choices(routing) * probabilities.mean(axis=0))


def router_z_loss(routing: Routing) -> Float[mx.array, ""]:
    """Keeps the router's logits small: the mean of ``logsumexp(logits) ** 2``."""
    return mx.square(mx.logsumexp(routing.logits, axis=-1)).mean()


def first_choices(routing: Routing) -> Float[mx.array, "X"]:
    """Share of the tokens whose first choice is each expert; sums to 1."""
    chosen = routing.experts[..., 0].reshape(-1, 1) == mx.arange(routing.logits.shape[-1])
    return chosen.astype(mx.float32).mean(axis=0)


def expert_use(routing: Routing) -> Float[mx.array, "X"]:
    """Share of the work that each expert does, both choices counted; sums to 1."""
    chosen = routing.experts.reshape(-1, 1) == mx.arange(routing.logits.shape[-1])
    return chosen.astype(mx.float32).mean(axis=0)
