"""The decoder: a language model that reads text embeddings and visual tokens alike.

Pre-norm, RMSNorm, RoPE, grouped-query attention, SwiGLU; the shapes are ours, for MM1's are not
published. Its methods have mlx-lm's names and arguments, so mlx-lm's caches and generation work with it.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from mm1_mlx.config import DecoderConfig, MlxLmDecoderConfig
from mm1_mlx.model.mixture_of_experts import (
    MixtureOfExperts,
    Routing,
    load_balance_loss,
    router_z_loss,
)
from mm1_mlx.model.mlx_lm_parts import (
    build_decoder,
    create_attention_mask,
    scaled_dot_product_attention,
)


def scale_by(x: mx.array, factor: float) -> mx.array:
    """Return ``factor * x``; a factor of 1, which most checkpoints have, costs nothing."""
    return x if factor == 1 else factor * x


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        width, head = config.hidden_dims, config.head_dims
        self.q_proj = nn.Linear(width, config.num_heads * head, bias=False)
        self.k_proj = nn.Linear(width, config.num_kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, config.num_kv_heads * head, bias=False)
        self.o_proj = nn.Linear(config.num_heads * head, width, bias=False)
        self.rope = nn.RoPE(head, base=config.rope_theta)
        scale = config.attention_multiplier
        self.scale = head**-0.5 if scale is None else scale

    def __call__(
        self, x: Float[mx.array, "B L D"], mask: Any = None, cache: Any = None
    ) -> Float[mx.array, "B L D"]:
        q, k, v = (
            mx.unflatten(proj(x), -1, (-1, self.config.head_dims)).transpose(0, 2, 1, 3)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        offset = cache.offset if cache is not None else 0
        q, k = self.rope(q, offset=offset), self.rope(k, offset=offset)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        x = scaled_dot_product_attention(q, k, v, cache=cache, scale=self.scale, mask=mask)
        return self.o_proj(x.transpose(0, 2, 1, 3).flatten(2))


class FeedForward(nn.Module):
    """A SwiGLU feed-forward layer."""

    def __init__(self, dims: int, hidden_dims: int):
        super().__init__()
        self.gate_proj = nn.Linear(dims, hidden_dims, bias=False)
        self.up_proj = nn.Linear(dims, hidden_dims, bias=False)
        self.down_proj = nn.Linear(hidden_dims, dims, bias=False)

    def __call__(self, x: Float[mx.array, "B L D"]) -> Float[mx.array, "B L D"]:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig, index: int):
        super().__init__()
        self.residual_multiplier = config.residual_multiplier
        width, hidden = config.hidden_dims, config.feed_forward_dims
        self.input_layernorm = nn.RMSNorm(width, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=config.norm_eps)
        self.is_sparse = config.is_sparse(index)
        self.mlp = (
            MixtureOfExperts(width, hidden, config.num_experts)
            if self.is_sparse
            else FeedForward(width, hidden)
        )

    def __call__(
        self, x: Float[mx.array, "B L D"], mask: Any = None, cache: Any = None
    ) -> tuple[Float[mx.array, "B L D"], Routing | None]:
        """Return the input of the next layer, and what this layer's router decided if it has one."""
        attended = self.self_attn(self.input_layernorm(x), mask, cache)
        x = x + scale_by(attended, self.residual_multiplier)
        h = self.post_attention_layernorm(x)
        if isinstance(self.mlp, MixtureOfExperts):
            y, routing = self.mlp(h)
        else:
            y, routing = self.mlp(h), None
        return x + scale_by(y, self.residual_multiplier), routing


class Decoder(nn.Module):
    """A dense or sparse decoder-only language model.

    Source: MM1, "Model Architecture Ablations", "Scaling via Mixture-of-Experts".
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.model_type = config.model_type
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_dims)
        self.layers = [DecoderLayer(config, index) for index in range(config.num_layers)]
        self.norm = nn.RMSNorm(config.hidden_dims, eps=config.norm_eps)
        if not config.tied_head:
            self.lm_head = nn.Linear(config.hidden_dims, config.vocab_size, bias=False)

    def embed(self, input_ids: Integer[mx.array, "*L"]) -> Float[mx.array, "*L D"]:
        return scale_by(self.embed_tokens(input_ids), self.config.embedding_multiplier)

    def states(
        self,
        x: Float[mx.array, "B L D"],
        cache: list[Any] | None = None,
        routings: list[Routing] | None = None,
    ) -> Float[mx.array, "B L D"]:
        """Return the normalised states that the head reads, for embeddings ``x``; the other arguments are those of a
        call.
        """
        cache = cache or [None] * len(self.layers)
        mask = create_attention_mask(x, cache[0])
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x, routing = layer(x, mask, layer_cache)
            if routing is not None and routings is not None:
                routings.append(routing)
        return self.norm(x)

    def __call__(
        self,
        input_ids: Integer[mx.array, "B L"] | None = None,
        cache: list[Any] | None = None,
        input_embeddings: Float[mx.array, "B L D"] | None = None,
        routings: list[Routing] | None = None,
        places: Integer[mx.array, "P"] | None = None,
    ) -> Float[mx.array, "B Q V"]:
        """Return the logits of the next token at every position, or at ``places`` only.

        Args:
            input_ids: the tokens; not needed where ``input_embeddings`` are given.
            cache: one of mlx-lm's caches for each layer.
            input_embeddings: embeddings to read in place of ``input_ids``.
            routings: a list that collects what the routers of a sparse decoder decide.
            places: the positions whose logits are wanted; all by default.
        """
        if input_embeddings is None:
            if input_ids is None:
                raise ValueError("there is nothing to read; give input_ids or input_embeddings.")
            input_embeddings = self.embed(input_ids)
        x = self.states(input_embeddings, cache, routings)
        if places is not None:
            x = x[:, places]
        x = self.embed_tokens.as_linear(x) if self.config.tied_head else self.lm_head(x)
        return scale_by(x, self.config.logits_multiplier)

    def router_loss(self, routings: list[Routing]) -> Float[mx.array, ""]:
        """Return what a sparse decoder adds to the language loss, averaged over its sparse layers."""
        balance = mx.stack([load_balance_loss(r) for r in routings]).mean()
        z = mx.stack([router_z_loss(r) for r in routings]).mean()
        return self.config.load_balance_weight * balance + self.config.router_z_weight * z


def make_decoder(config: DecoderConfig | MlxLmDecoderConfig) -> nn.Module:
    """Build our decoder, or the mlx-lm architecture that ``config.model_type`` names, with random weights.

    Raises:
        ConfigError: mlx-lm has no such architecture, or it takes no ``input_embeddings``.
    """
    return Decoder(config) if isinstance(config, DecoderConfig) else build_decoder(config.values)
