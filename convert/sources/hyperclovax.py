"""HyperCLOVAX-SEED-Vision: SigLIP or CLIP, C-Abstractor with any-resolution grids, Llama. Pictures, no video.

Source: https://huggingface.co/naver-hyperclovax/HyperCLOVAX-SEED-Vision-Instruct-3B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mm1_mlx.checkpoint.chat_template import find_chat_template
from mm1_mlx.checkpoint.sizes import require_sizes
from mm1_mlx.config import ImageConfig, ImageEncoderConfig, MM1Config, PromptConfig
from mm1_mlx.errors import CheckpointError

from ..c_abstractor import connector_config, connector_keys
from ..image_encoders import clip_config, find_prefix, siglip_config, transformers_keys
from ..key_table import SAME, KeyTable, Move
from ..llama import llama_config, llama_keys
from ..recipe import PREPROCESSOR, Options, Part, Recipe, Shapes, select_prefix, shapes_of
from ..source_config import SourceConfig, read_json
from ..tensors import open_tensors
from ..tokenizers import end_token_ids, image_token_id, load_tokenizer, tokenizer_folder

ENCODER, CONNECTOR, DECODER = "vision_model.", "mm_projector.", "language_model."
ROW_END = "image_newline"

# Its chat template writes a picture as three blocks, from these fields of the message's part.
IMAGE_PART = {
    "type": "image",
    "image": "",
    "filename": "",
    "ocr": "",
    "lens_keywords": "",
    "lens_local_keywords": "",
}


def matches(config: SourceConfig) -> bool:
    """Say whether a folder's config.json is HyperCLOVAX-SEED-Vision's."""
    return config.values.get("model_type") == "hyperclovax_vlm"


def read(folder: Path, config: SourceConfig, options: Options) -> Recipe:
    """Read everything about a HyperCLOVAX checkpoint except its weights' values.

    Raises:
        CheckpointError: it is incomplete, contradicts itself, or is not of this architecture.
    """
    kind = config.get("mm_projector_type", str, "cabstractor")
    if kind != "cabstractor":
        raise CheckpointError(f"{config.where}: mm_projector_type is {kind!r}, expected 'cabstractor'.")
    tensors = open_tensors(folder)
    encoder = _encoder(config)
    shapes = shapes_of(tensors)
    connector = connector_config(
        select_prefix(shapes, CONNECTOR),
        num_visual_tokens=_num_visual_tokens(config),
        row_end=ROW_END in shapes,
    )
    config.agree("proj_pos_emb", connector.position_grid is not None, "the tensors say")
    config.agree("proj_prenorm", connector.pre_norm, "the tensors say")
    decoder = llama_config(config.section("text_config", "language_config"), select_prefix(shapes, DECODER))
    tokens = tokenizer_folder(folder, options)
    tokenizer = load_tokenizer(tokens)
    template = find_chat_template(tokens, folder)
    model = MM1Config(
        vision_config=encoder,
        connector_config=connector,
        text_config=decoder,
        image_config=_image_config(folder, config, encoder),
        image_token_id=_image_token_id(config, tokenizer, options, decoder.vocab_size),
        eos_token_id=end_token_ids(folder, tokenizer, ("<|endofturn|>",)),
        prompt_config=PromptConfig(
            image_part=IMAGE_PART if template is not None and "image" in template else None
        ),
    )
    require_sizes(model, shapes, config.where)
    return Recipe(
        source="hyperclovax",
        config=model,
        parts=(Part(tensors, *tables(model, [shapes]), source_config=config.values),),
        companions=(tokens, folder),
        origins=(folder,),
        base_models=("naver-hyperclovax/HyperCLOVAX-SEED-Vision-Instruct-3B",),
    )


def tables(config: MM1Config, shapes: Sequence[Shapes]) -> list[KeyTable]:
    """Return the key tables, from the sizes of the model and of the source's tensors."""
    table = (
        transformers_keys(config.vision_config).add_prefixes(
            find_prefix(shapes[0], ENCODER), "image_encoder."
        )
        + connector_keys(config.connector_config, select_prefix(shapes[0], CONNECTOR)).add_prefixes(
            CONNECTOR, "connector."
        )
        + llama_keys(config.text_config, select_prefix(shapes[0], DECODER)).add_prefixes(DECODER, "decoder.")
    )
    if config.connector_config.row_end:
        table += KeyTable({ROW_END: Move(("connector.row_end",), SAME)})
    return [table]


def _encoder(config: SourceConfig) -> ImageEncoderConfig:
    """Return the sizes of the SigLIP or CLIP encoder, whose features are not normalised: an identity replaces the last
    norm.
    """
    vision = config.section("vision_config")
    layer = config.get("use_nth_layer", int, -2)
    kind = vision.need("model_type", str)
    if kind == "siglip_vision_model":
        return siglip_config(vision, feature_layer=layer, final_norm=False)
    if kind == "clip_vision_model":
        return clip_config(vision, feature_layer=layer)
    raise CheckpointError(
        f"{vision.where}: model_type is {kind!r}, expected siglip_vision_model or clip_vision_model."
    )


def _num_visual_tokens(config: SourceConfig) -> int:
    """Return the number of visual tokens, under its new or old name."""
    old = "num_queries_vis_abstractor"
    return config.need(old if old in config else f"{old}_image", int)


def _image_token_id(config: SourceConfig, tokenizer: Any, options: Options, vocab_size: int) -> int:
    """Return the image token's id that the configuration states, under its new or old name."""
    if options.image_token is None:
        number = config.need("image_token_id" if "image_token_id" in config else "img_start_id", int)
        named = replace(options, image_token=tokenizer.convert_ids_to_tokens(number))
        return image_token_id(tokenizer, named, (), vocab_size)
    return image_token_id(tokenizer, options, (), vocab_size)


def _image_config(folder: Path, config: SourceConfig, encoder: ImageEncoderConfig) -> ImageConfig:
    """Return the any-resolution settings, from the two files that may hold them."""
    processor = read_json(folder / PREPROCESSOR)

    def need(key: str, type_: type):
        return (config if key in config else processor).need(key, type_)

    if not need("anyres", bool):
        raise CheckpointError(f"{config.where}: anyres is false; how one view is made is not published.")
    size, most = encoder.image_size, need("max_num_grids", int)
    resolutions = need("possible_resolutions", list)
    canvases = []
    for resolution in resolutions:
        if len(resolution) != 2 or any(side % size for side in resolution):
            raise CheckpointError(
                f"{config.where}: possible_resolutions holds {resolution}, expected multiples of {size} pixels."
            )
        canvases.append((resolution[0] // size, resolution[1] // size))
    return ImageConfig(
        image_size=size,
        mean=processor.colors("image_mean"),
        std=processor.colors("image_std"),
        resize="pad",
        alpha="drop",
        sub_images="anyres",
        max_sub_images=most,
        canvases=tuple(canvases),
        unpad=need("unpad", bool),
    )
