"""Configurations by name: MM1's own models, and public image encoders that fit them.

The paper gives parameter counts, but no shapes. The decoder shapes here are ours, chosen so that the
non-embedding parameters are the paper's 2.9 B, 6.4 B and 30 B and the sparse models' totals its 64 B
and 47 B. The two together fix the share of the feed-forward layers: 1.94 B of the 3B, 5.2 B of the 7B.

Source: MM1, "Model Architecture Ablations", "Scaling via Mixture-of-Experts"; connector widths from
Honeybee (arXiv:2312.06742).
"""

from __future__ import annotations

from dataclasses import replace

from mm1_mlx.config import (
    CLIP_MEAN,
    CLIP_STD,
    ConnectorConfig,
    DecoderConfig,
    ImageConfig,
    ImageEncoderConfig,
    MM1Config,
)
from mm1_mlx.errors import ConfigError


def _clip(image_size: int, hidden_dims: int, num_layers: int, feature_layer: int) -> ImageEncoderConfig:
    return ImageEncoderConfig(
        image_size=image_size,
        patch_size=14,
        hidden_dims=hidden_dims,
        feed_forward_dims=4 * hidden_dims,
        num_layers=num_layers,
        num_heads=16,
        activation="quick_gelu",
        norm_eps=1e-5,
        class_token=True,
        pre_norm=True,
        final_norm=False,
        patch_bias=False,
        feature_layer=feature_layer,
    )


IMAGE_ENCODERS = {
    "vit-l-14-336": _clip(336, 1024, 24, feature_layer=-2),
    "vit-h-14-378": _clip(378, 1280, 32, feature_layer=-1),
    "siglip-so400m-14-384": ImageEncoderConfig(
        image_size=384,
        patch_size=14,
        hidden_dims=1152,
        feed_forward_dims=4304,
        num_layers=27,
        num_heads=16,
        activation="gelu_tanh",
        norm_eps=1e-6,
        class_token=False,
        pre_norm=False,
        final_norm=True,
        patch_bias=True,
    ),
}

VOCAB_SIZE = 32_768  # ours; the paper's tokenizer is not published


def _decoder(
    hidden_dims: int, feed_forward_dims: int, num_layers: int, num_heads: int, num_kv_heads: int
) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=VOCAB_SIZE,
        hidden_dims=hidden_dims,
        feed_forward_dims=feed_forward_dims,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dims=128,
        max_positions=4096,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tied_head=True,
    )


_3B = _decoder(3072, 8192, num_layers=26, num_heads=24, num_kv_heads=24)
_7B = _decoder(4096, 13_056, num_layers=32, num_heads=32, num_kv_heads=8)
_30B = _decoder(7168, 20_480, num_layers=54, num_heads=56, num_kv_heads=8)

DECODERS = {
    "mm1-3b": _3B,
    "mm1-7b": _7B,
    "mm1-30b": _30B,
    "mm1-3b-moe": replace(_3B, num_experts=64, sparse_every=2),
    "mm1-7b-moe": replace(_7B, num_experts=32, sparse_every=4),
}


# MM1's proportions in a model small enough for a laptop. 9 x 9 patches become 4 x 4 visual tokens, pooled in uneven
# windows as 27 x 27 patches are to 12 x 12.
MM1_TINY = MM1Config(
    vision_config=ImageEncoderConfig(
        image_size=126,
        patch_size=14,
        hidden_dims=128,
        feed_forward_dims=512,
        num_layers=5,
        num_heads=4,
        activation="quick_gelu",
        norm_eps=1e-5,
        class_token=False,
        pre_norm=False,
        final_norm=True,
        patch_bias=True,
    ),
    connector_config=ConnectorConfig(
        type="c_abstractor",
        num_visual_tokens=16,
        input_dims=128,
        hidden_dims=128,
        output_dims=256,
        num_blocks=2,
        num_readout_layers=2,
        position_grid=9,
    ),
    text_config=DecoderConfig(
        vocab_size=768,
        hidden_dims=256,
        feed_forward_dims=640,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dims=64,
        max_positions=1024,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tied_head=True,
    ),
    image_config=ImageConfig(image_size=126, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    image_token_id=3,
    eos_token_id=2,
)


def preset(name: str) -> MM1Config:
    """Return the configuration of one of MM1's models by its name, such as "mm1-3b", or of "mm1-tiny".

    MM1's models have a ViT-H/14 for pictures of 378 pixels, and a C-Abstractor that makes 144 visual tokens.

    Raises:
        ConfigError: there is no preset of this name.
    """
    if name == "mm1-tiny":
        return MM1_TINY
    if not isinstance(name, str) or name not in DECODERS:
        raise ConfigError(f"no preset is named {name!r}; there are mm1-tiny, {', '.join(DECODERS)}.")
    encoder, decoder = IMAGE_ENCODERS["vit-h-14-378"], DECODERS[name]
    return MM1Config(
        vision_config=encoder,
        connector_config=ConnectorConfig(
            type="c_abstractor",
            num_visual_tokens=144,
            input_dims=encoder.hidden_dims,
            hidden_dims=1024,
            output_dims=decoder.hidden_dims,
            num_blocks=3,
            num_readout_layers=2,
            position_grid=encoder.grid_side,
        ),
        text_config=decoder,
        image_config=ImageConfig(image_size=378, mean=CLIP_MEAN, std=CLIP_STD),
        image_token_id=VOCAB_SIZE - 1,
    )
