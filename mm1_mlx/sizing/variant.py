"""Models with other parts or fewer layers than a configuration has, with random weights, to be measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from mm1_mlx.arrays import flatten
from mm1_mlx.config import DecoderConfig, MlxLmDecoderConfig, MM1Config
from mm1_mlx.errors import ConfigError
from mm1_mlx.machine import machine_memory
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.presets import DECODERS, IMAGE_ENCODERS, VOCAB_SIZE


@dataclass(frozen=True)
class Variant:
    """Changes to a configuration; None means no change."""

    encoder: str | None = None  # the name of another image encoder
    encoder_layers: int | None = None  # keep only this many first layers of the encoder
    decoder_dims: int | None = None  # take a plain decoder of this width
    layers: int | None = None  # keep only this many first layers of the decoder
    sub_images: str | None = None
    max_sub_images: int | None = None

    def of(self, config: MM1Config) -> MM1Config:
        """Return ``config`` with the changes.

        Raises:
            ConfigError: a change is not possible.
        """
        encoder, connector = config.vision_config, config.connector_config
        decoder, image, token = config.text_config, config.image_config, config.image_token_id
        if self.encoder is not None:
            if self.encoder not in IMAGE_ENCODERS:
                known = ", ".join(IMAGE_ENCODERS)
                raise ConfigError(f"no image encoder is named {self.encoder!r}; there are {known}.")
            encoder = IMAGE_ENCODERS[self.encoder]
            grid = encoder.grid_side if connector.position_grid else None
            connector = replace(connector, input_dims=encoder.hidden_dims, position_grid=grid)
            image = replace(image, image_size=encoder.image_size)
        if self.encoder_layers is not None:
            _require_layers("encoder_layers", self.encoder_layers, encoder.num_layers, "image encoder")
            encoder = replace(encoder, num_layers=self.encoder_layers)
        if self.decoder_dims is not None:
            decoder, token = plain_decoder(self.decoder_dims), VOCAB_SIZE - 1
            connector = replace(connector, output_dims=self.decoder_dims)
            config = replace(config, eos_token_id=None)
        if self.layers is not None:
            decoder = keep_first_layers(decoder, self.layers)
        rule = {"sub_images": self.sub_images, "max_sub_images": self.max_sub_images}
        image = image.changed(**{name: value for name, value in rule.items() if value is not None})
        return replace(
            config,
            vision_config=encoder,
            connector_config=connector,
            text_config=decoder,
            image_config=image,
            image_token_id=token,
        )


def make_random_model(config: MM1Config, dtype: mx.Dtype) -> MM1:
    """Make a model with random weights, which are evaluated.

    Raises:
        ConfigError: the weights are larger than this machine's memory.
    """
    model = MM1(config)
    model.set_dtype(dtype)
    weights = flatten(model.parameters()).values()
    needed, there = sum(weight.nbytes for weight in weights), machine_memory()
    if needed > there:
        raise ConfigError(
            f"the weights take {needed / 1e9:.1f} GB, this machine has {there / 1e9:.1f}; lower `layers` or `decoder_dims`."
        )
    for weight in weights:
        mx.eval(weight)  # one at a time, because they are drawn in float32
    model.eval()
    return model


def plain_decoder(dims: int) -> DecoderConfig:
    """Return a dense decoder of this width in the proportions of MM1-3B's: heads of 128, and 8 / 3 as wide inside."""
    plain = DECODERS["mm1-3b"]
    if dims % plain.head_dims:
        raise ConfigError(f"`decoder_dims` is {dims}, expected a multiple of {plain.head_dims}.")
    heads = dims // plain.head_dims
    return replace(
        plain, hidden_dims=dims, feed_forward_dims=8 * dims // 3, num_heads=heads, num_kv_heads=heads
    )


def keep_first_layers(
    decoder: DecoderConfig | MlxLmDecoderConfig, layers: int
) -> DecoderConfig | MlxLmDecoderConfig:
    """Return the configuration of a decoder with only its first layers; lists with an entry per layer are cut too."""
    if isinstance(decoder, DecoderConfig):
        _require_layers("layers", layers, decoder.num_layers, "decoder")
        dense = decoder.sparse_every > layers
        return replace(
            decoder,
            num_layers=layers,
            num_experts=0 if dense else decoder.num_experts,
            sparse_every=0 if dense else decoder.sparse_every,
        )
    there = decoder.values.get("num_hidden_layers")
    if there is None:
        raise ConfigError(f"`layers`: a {decoder.model_type} decoder names no num_hidden_layers to lower.")
    _require_layers("layers", layers, there, "decoder")
    cut = {k: v[:layers] for k, v in decoder.values.items() if isinstance(v, list) and len(v) == there}
    return replace(decoder, values=decoder.values | cut | {"num_hidden_layers": layers})


def _require_layers(name: str, layers: int, there: int, part: str) -> None:
    if layers > there:
        raise ConfigError(f"`{name}` is {layers}, but the {part} has {there}.")
