"""MM1: image encoder, connector and decoder, with visual tokens in the places of the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from mm1_mlx.arrays import flatten
from mm1_mlx.config import MM1Config
from mm1_mlx.model.connector import make_connector
from mm1_mlx.model.decoder import Decoder, make_decoder
from mm1_mlx.model.given_embeddings import measure_scale, read_embeddings
from mm1_mlx.model.image_encoder import ImageEncoder
from mm1_mlx.model.mixture_of_experts import Routing
from mm1_mlx.model.mlx_lm_parts import make_prompt_cache, token_embedding


def visual_token_places(input_ids: Integer[mx.array, "*L"], image_token_id: int) -> Integer[mx.array, "*L"]:
    """Return for each position the number of its visual token, in reading order from 0; -1 where text stands."""
    is_visual = input_ids == image_token_id
    numbers = mx.cumsum(is_visual.astype(mx.int32).flatten()).reshape(input_ids.shape) - 1
    return mx.where(is_visual, numbers, -1)


def place_visual_tokens(
    text: Float[mx.array, "*L D"], visual_tokens: Float[mx.array, "K D"], places: Integer[mx.array, "*L"]
) -> Float[mx.array, "*L D"]:
    """Put ``visual_tokens`` at their ``places`` and ``text`` elsewhere."""
    if visual_tokens.shape[0] == 0:
        return text
    visual = visual_tokens[mx.clip(places, 0, len(visual_tokens) - 1)].astype(text.dtype)
    return mx.where(places[..., None] >= 0, visual, text)


def uniform_batches(
    pixel_values: Float[mx.array, "N H W 3"] | list[mx.array], views_at_once: int, most: int | None = None
) -> Iterator[Float[mx.array, "n H W 3"]]:
    """Yield consecutive views of one size, at most ``most`` at a time, or ``views_at_once`` if that is more."""
    step = len(pixel_values) if most is None else max(most // views_at_once, 1) * views_at_once
    start = 0
    while start < len(pixel_values):
        stop = min(start + step, len(pixel_values))
        if isinstance(pixel_values, list):
            shape = pixel_values[start].shape
            stop = next((i for i in range(start, stop) if pixel_values[i].shape != shape), stop)
            yield mx.stack(pixel_values[start:stop])
        else:
            yield pixel_values[start:stop]
        start = stop


class MM1(nn.Module):
    """MM1: pictures and text in, logits of the next token out.

    Each sequence of a batch may hold any number of pictures, or none; the visual tokens of all of them follow one
    another in reading order.

    Source: MM1, "Building Performant Multimodal LLMs".
    """

    decoder: (
        Any  # our Decoder, or a model of mlx-lm, whose attributes differ from one architecture to the next
    )

    def __init__(self, config: MM1Config):
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config.vision_config)
        self.connector = make_connector(config.connector_config)
        self.decoder = make_decoder(config.text_config)
        self._scale = self._measure_scale()

    @property
    def layers(self) -> list[nn.Module]:
        return self.decoder.layers

    def make_cache(self) -> list[Any]:
        return make_prompt_cache(self.decoder)

    def patch_features(
        self, pixels: Float[mx.array, "N H W 3"]
    ) -> tuple[Float[mx.array, "N P E"], tuple[int, int]]:
        """Return what the connector reads of N views of one size: their features, and the rows and columns of patches."""
        return self.image_encoder(pixels), self.image_encoder.grid(pixels)

    def encode_images(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "M T D"]:
        """Return the visual tokens of N views of one size; M is N divided by the connector's ``views_at_once``."""
        return self.connector(*self.patch_features(pixels))

    def arrange(
        self, visual_tokens: Float[mx.array, "K D"], order: Integer[mx.array, "M"] | Sequence[int] | None
    ) -> Float[mx.array, "M D"]:
        """Return visual tokens in the order in which the decoder reads them.

        Args:
            visual_tokens: in the order in which the connector makes them.
            order: their numbers from 0, with -1 for the learned end of a row; None keeps their order.
        """
        if order is None:
            return visual_tokens
        order = order if isinstance(order, mx.array) else mx.array(list(order))
        if not self.config.connector_config.row_end:
            return visual_tokens[order]
        row_end = self.connector["row_end"][None].astype(visual_tokens.dtype)
        table = mx.concatenate([visual_tokens, row_end])
        return table[mx.where(order < 0, visual_tokens.shape[0], order)]

    def embed_text(self, input_ids: Integer[mx.array, "*L"]) -> Float[mx.array, "*L D"]:
        """Return the decoder's embeddings of ids; a place for a visual token gets that of the image token."""
        if isinstance(self.decoder, Decoder):
            return self.decoder.embed(input_ids)
        return self._table(input_ids)

    @property
    def _table(self) -> nn.Module:
        return token_embedding(self.decoder, self.config.text_config.vocab_size)

    def _measure_scale(self) -> float:
        if isinstance(self.decoder, Decoder):
            return 1.0
        return measure_scale(self.decoder, self._table, self.config.text_config.hidden_dims)

    def place(
        self,
        text: Float[mx.array, "*L D"],
        visual_tokens: Float[mx.array, "K D"],
        places: Integer[mx.array, "*L"],
    ) -> Float[mx.array, "*L D"]:
        """Put visual tokens at their ``places`` and ``text`` elsewhere.

        A decoder that multiplies its embeddings, such as Gemma, gets visual tokens that are divided before, so that they
        enter its first layer as the connector made them.
        """
        visual_tokens = visual_tokens if self._scale == 1 else visual_tokens / self._scale
        return place_visual_tokens(text, visual_tokens, places)

    def embed_inputs(
        self,
        input_ids: Integer[mx.array, "*L"],
        *,
        pixel_values: Float[mx.array, "N H W 3"] | list[mx.array] | None = None,
        token_order: Integer[mx.array, "M"] | None = None,
        visual_tokens: Float[mx.array, "K D"] | None = None,
    ) -> Float[mx.array, "*L D"]:
        """Return what the decoder reads: text embeddings with the pictures' visual tokens in their places.

        There must be a visual token for every place; ``vision.encode`` checks that for inputs from users.

        Args:
            input_ids: tokens, with ``image_token_id`` once for every visual token. They may be the end of a
                prompt, with only the pictures of that end.
            pixel_values: all views of the pictures, in reading order; a list where they differ in size.
            token_order: the order of the views' visual tokens, as in ``arrange``.
            visual_tokens: the arranged visual tokens, where they are known already.
        """
        if visual_tokens is None and pixel_values is not None and len(pixel_values):
            batches = uniform_batches(pixel_values, self.config.connector_config.views_at_once)
            visual_tokens = mx.concatenate([self.encode_images(batch).flatten(0, 1) for batch in batches])
            visual_tokens = self.arrange(visual_tokens, token_order)
        text = self.embed_text(input_ids)
        if visual_tokens is None:
            return text
        return self.place(text, visual_tokens, visual_token_places(input_ids, self.config.image_token_id))

    def __call__(
        self,
        input_ids: Integer[mx.array, "B L"] | None,
        pixel_values: Float[mx.array, "N H W 3"] | list[mx.array] | None = None,
        cache: list[Any] | None = None,
        input_embeddings: Float[mx.array, "B L D"] | None = None,
        token_order: Integer[mx.array, "M"] | None = None,
        routings: list[Routing] | None = None,
        places: Integer[mx.array, "P"] | None = None,
    ) -> Float[mx.array, "B Q V"]:
        """Return the logits; ``input_embeddings``, where given, replace both ids and pictures.

        Ids with places for visual tokens need their ``pixel_values``; without these, all ids are read as text. A list
        given as ``routings`` collects what the routers of our decoder decide, if it is sparse. Logits are those of
        every position, or of ``places`` only.
        """
        if input_embeddings is None and input_ids is not None and pixel_values is not None:
            input_embeddings = self.embed_inputs(
                input_ids, pixel_values=pixel_values, token_order=token_order
            )
        if isinstance(self.decoder, Decoder):
            return self.decoder(
                input_ids, cache=cache, input_embeddings=input_embeddings, routings=routings, places=places
            )
        if input_embeddings is None:
            logits = self.decoder(input_ids, cache=cache)
            return logits if places is None else logits[:, places]
        return read_embeddings(self.decoder, self._table, input_embeddings, cache, places)

    def quant_predicate(self, path: str, module: nn.Module) -> bool | dict[str, Any]:
        """Say whether and how a quantized folder packs a module by default: the decoder's layers, but not its routers.

        Image encoders and connectors lose detail at 4 bits and are small. A decoder of mlx-lm that has a
        ``quant_predicate`` of its own decides for its layers.
        """
        part, _, rest = path.partition(".")
        if part != "decoder":
            return False
        if hasattr(self.decoder, "quant_predicate"):
            return self.decoder.quant_predicate(rest, module)
        return not path.endswith("mlp.router")


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters of ``module``; nothing is evaluated, so a preset takes no memory."""
    return sum(value.size for value in flatten(module.parameters()).values())
