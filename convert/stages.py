"""Compute a model's values stage by stage, under the names that reference runs give them.

Names that end in ``_nchw`` are channels-first, as PyTorch keeps pictures and feature maps.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from mm1_mlx.model.connector import CAbstractor, CAbstractorPair
from mm1_mlx.model.image_encoder import ImageEncoder
from mm1_mlx.model.mm1 import MM1

Stage = tuple[str, mx.array]


def move_channels_first(x: mx.array) -> mx.array:
    """Move the last axis, that of the channels, to the second place."""
    return mx.moveaxis(x, -1, 1)


def encoder_stages(encoder: ImageEncoder, pixels: mx.array) -> Iterator[Stage]:
    """Yield the stages from patches to the last layer, whether the model uses it or not."""
    patches = encoder.patch_embedding(encoder.patches(pixels.astype(encoder.dtype)))
    if encoder.config.patch_block == 1:
        yield "patch_conv_nchw", move_channels_first(mx.unflatten(patches, 1, encoder.grid(pixels)))
    yield "embeddings", encoder.tokens(pixels)
    x, rotation = encoder.embed(pixels), encoder.rotation(pixels)
    yield "hidden_0", x
    for number, layer in enumerate(encoder.layers, start=1):
        x = layer(x, rotation)
        yield f"hidden_{number}", x
    yield "last_hidden_state", encoder.post_norm(x) if encoder.config.final_norm else x
    if "post_norm" in encoder:
        yield "post_layernorm_all_tokens", encoder.post_norm(x)


def connector_stages(
    connector: CAbstractor, patches: mx.array, grid: tuple[int, int] | None
) -> Iterator[Stage]:
    """Yield the output of every block of a C-Abstractor."""
    config = connector.config
    yield "input", patches
    if config.pre_norm:
        yield "after_prenorm", connector.pre_norm(patches)
    x = connector.embed(patches, grid)
    yield "after_pos_emb_nchw", move_channels_first(x)
    for number, block in enumerate(connector.before, start=1):
        x = block(x)
        yield f"stage1_b{number}_nchw", move_channels_first(x)
    yield "after_stage1_nchw", move_channels_first(x)
    x = connector.pool(x)
    yield "after_pool_nchw", move_channels_first(x)
    for number, block in enumerate(connector.after, start=1):
        x = block(x)
        yield f"stage2_b{number}_nchw", move_channels_first(x)
    yield "after_stage2_nchw", move_channels_first(x)
    yield "after_readout", connector.read_out(x.flatten(1, 2))
    yield "output", connector(patches, grid)


def image_stages(model: MM1, pixels: mx.array) -> Iterator[Stage]:
    """Yield the stages from pixels of views of one size to their visual tokens."""
    for name, value in encoder_stages(model.image_encoder, pixels):
        yield f"vision.{name}", value
    patches, grid = model.patch_features(pixels)
    connector = model.connector
    if isinstance(connector, CAbstractorPair):
        views = mx.unflatten(patches, 0, (-1, 5))
        joined = connector.join_quadrants(views[:, :4])
        for prefix, part, features in (
            ("ctt", connector.detail, joined),
            ("ori", connector.overview, views[:, 4]),
        ):
            for name, value in connector_stages(part, features, None):
                yield f"{prefix}.{name}", value
    elif isinstance(connector, CAbstractor):
        for name, value in connector_stages(connector, patches, grid):
            yield f"connector.{name}", value
    else:
        yield "connector.output", connector(patches, grid)
