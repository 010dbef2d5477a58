"""Small models for mm1-tiny's tokenizer, one for each way of making views of a picture."""

from dataclasses import replace
from pathlib import Path

import mm1_mlx
from mm1_mlx.config import (
    ConnectorConfig,
    DecoderConfig,
    ImageConfig,
    ImageEncoderConfig,
    MM1Config,
    PromptConfig,
)
from mm1_mlx.tiny import IMAGE_ID, VOCAB_SIZE

TINY_FOLDER = Path(mm1_mlx.__file__).parent / "tiny" / "mm1-tiny"
ROW_ID = 205  # the token of a new line

SMALL = MM1Config(
    vision_config=ImageEncoderConfig(
        image_size=16,
        patch_size=4,
        hidden_dims=32,
        feed_forward_dims=64,
        num_layers=1,
        num_heads=2,
        activation="quick_gelu",
        norm_eps=1e-5,
        class_token=False,
        pre_norm=False,
        final_norm=False,
        patch_bias=True,
    ),
    connector_config=ConnectorConfig(
        type="c_abstractor",
        num_visual_tokens=4,
        input_dims=32,
        hidden_dims=32,
        output_dims=64,
        num_blocks=1,
        num_readout_layers=2,
        position_grid=4,
    ),
    text_config=DecoderConfig(
        vocab_size=VOCAB_SIZE,
        hidden_dims=64,
        feed_forward_dims=128,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dims=16,
        max_positions=512,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tied_head=False,
    ),
    image_config=ImageConfig(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    image_token_id=IMAGE_ID,
    eos_token_id=2,
)
ANYRES = replace(  # as HyperCLOVAX: the whole picture and crops without their padding, rows that end
    SMALL,
    connector_config=replace(SMALL.connector_config, row_end=True),
    image_config=replace(SMALL.image_config, sub_images="anyres", max_sub_images=9, unpad=True),
)
SMART = replace(  # as Kanana: a picture keeps its sides, a text token stands before each row
    SMALL,
    vision_config=replace(SMALL.vision_config, patch_bias=False, positions="rotary", patch_block=2),
    connector_config=replace(
        SMALL.connector_config, num_visual_tokens=None, merge_size=2, position_antialias=True
    ),
    image_config=replace(
        SMALL.image_config, resize="smart", size_multiple=8, min_pixels=128, max_pixels=2048
    ),
    prompt_config=PromptConfig(row_token_id=ROW_ID),
)
PAIR = replace(  # as 360VL: four quadrants and the whole to two connectors
    SMALL,
    connector_config=replace(SMALL.connector_config, type="c_abstractor_pair"),
    image_config=replace(SMALL.image_config, sub_images="quadrants"),
)
