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

    def keep_first(self, length: int) -> Routing:
        """Keep the first ``length`` positions; those after them are padding."""
        return Routing(*(array[:, :length] for array in self))


class MixtureOfExperts(nn.Module):
    """A sparse feed-forward layer: top-2 routing over SwiGLU experts, in float32, with the two gates scaled to sum 1.

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
    """Return ``X sum_e(f_e p_e)``: 1 when all experts are used equally, and more the less equally they are.

    f_e is the share of tokens whose first choice is expert e, p_e its mean probability.
    """
    num_experts = routing.logits.shape[-1]
    probabilities = mx.softmax(routing.logits, axis=-1).reshape(-1, num_experts)
    return num_experts * mx.sum(first_choices(routing) * probabilities.mean(axis=0))


def router_z_loss(routing: Routing) -> Float[mx.array, ""]:
    """Return the mean of ``logsumexp(logits) ** 2``, a loss that keeps the router's logits small."""
    return mx.square(mx.logsumexp(routing.logits, axis=-1)).mean()


def first_choices(routing: Routing) -> Float[mx.array, "X"]:
    """Return the share of the tokens whose first choice is each expert; the shares sum to 1."""
    chosen = routing.experts[..., 0].reshape(-1, 1) == mx.arange(routing.logits.shape[-1])
    return chosen.astype(mx.float32).mean(axis=0)


def expert_use(routing: Routing) -> Float[mx.array, "X"]:
    """Return the share of the work that each expert does, with both choices counted; the shares sum to 1."""
    chosen = routing.experts.reshape(-1, 1) == mx.arange(routing.logits.shape[-1])
    return chosen.astype(mx.float32).mean(axis=0)
