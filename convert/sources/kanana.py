"""Kanana-1.5-v: Qwen2-VL's image encoder without its merger, a C-Abstractor for any grid, Llama.

The encoder hands its patches on in squares of 2 x 2, and the C-Abstractor, as published, reads them row by row
as if they were in reading order. It was trained so, and so it is kept.

Source: https://huggingface.co/kakaocorp/kanana-1.5-v-3b-instruct.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mm1_mlx.checkpoint.sizes import require_sizes
from mm1_mlx.config import CLIP_MEAN, CLIP_STD, ImageConfig, MM1Config, PromptConfig
from mm1_mlx.errors import CheckpointError

from ..c_abstractor import check_declared, connector_config, connector_keys
from ..image_encoders import qwen2_vl_config, qwen2_vl_keys
from ..key_table import KeyTable
from ..llama import llama_config, llama_keys
from ..recipe import PREPROCESSOR, Options, Part, Recipe, Shapes, select_prefix, shapes_of
from ..source_config import SourceConfig, read_json
from ..tensors import open_tensors
from ..tokenizers import end_token_ids, image_token_id, load_tokenizer, tokenizer_folder

ENCODER, CONNECTOR, DECODER = "vision_model.", "abstractor.", "language_model."

# As Honeybee does, Kanana tokenises the pieces between these one by one. A picture is a turn of its own.
HUMAN, ASSISTANT = "\nHuman: ", "\nAI: "

# Kanana writes -1 into the places of visual tokens, so any token that text never holds can stand for one.
IMAGE_TOKENS = ("<image>", "<|image|>", "<|reserved_special_token_44|>", "<unk>")


def matches(config: SourceConfig) -> bool:
    """Say whether a folder's config.json is Kanana-V's."""
    return config.values.get("architectures") == ["KananaVForConditionalGeneration"]


def read(folder: Path, config: SourceConfig, options: Options) -> Recipe:
    """Read everything about a Kanana-V checkpoint except its weights' values.

    Raises:
        CheckpointError: it is incomplete or contradicts itself.
    """
    tensors = open_tensors(folder)
    projector, vision = config.section("projector_config"), config.section("vision_config")
    kind = projector.get("projector_type", str, "dynamic-c-abs")
    if kind != "dynamic-c-abs":
        raise CheckpointError(f"{projector.where}: projector_type is {kind!r}, expected 'dynamic-c-abs'.")
    shapes = shapes_of(tensors)
    connector = connector_config(
        select_prefix(shapes, CONNECTOR),
        num_visual_tokens=None,
        merge_size=projector.need("merge_size", int),
        position_antialias=True,
    )
    check_declared(projector, connector)
    encoder = qwen2_vl_config(
        vision,
        image_size=vision.need("patch_size", int) * (connector.position_grid or 1),
        feature_layer=projector.need("feature_layer_index", int),
    )
    decoder = llama_config(config.section("text_config"), select_prefix(shapes, DECODER))

    tokens = tokenizer_folder(folder, options)
    tokenizer = load_tokenizer(tokens)
    processor = read_json(folder / PREPROCESSOR)
    new_line = tokenizer.encode("\n", add_special_tokens=False)
    if len(new_line) != 1:
        raise CheckpointError(f"the tokenizer writes a new line as {len(new_line)} tokens, expected 1.")
    model = MM1Config(
        vision_config=encoder,
        connector_config=connector,
        text_config=decoder,
        image_config=ImageConfig(
            image_size=encoder.image_size,
            mean=processor.colors("image_mean", CLIP_MEAN),
            std=processor.colors("image_std", CLIP_STD),
            resize="smart",
            alpha="drop",
            size_multiple=encoder.patch_size * connector.merge_size,
            min_pixels=_find_pixels(processor, "min_pixels", "shortest_edge"),
            max_pixels=_find_pixels(processor, "max_pixels", "longest_edge"),
        ),
        image_token_id=image_token_id(tokenizer, options, IMAGE_TOKENS, decoder.vocab_size),
        eos_token_id=end_token_ids(folder, tokenizer),
        prompt_config=PromptConfig(cut_at=(HUMAN, ASSISTANT), after_image=HUMAN, row_token_id=new_line[0]),
    )
    require_sizes(model, shapes, config.where)
    return Recipe(
        source="kanana",
        config=model,
        parts=(Part(tensors, *tables(model, [shapes]), source_config=config.values),),
        companions=(tokens, folder),
        origins=(folder,),
        base_models=("kakaocorp/kanana-1.5-v-3b-instruct",),
    )


def _find_pixels(processor: SourceConfig, *names: str) -> int:
    """Return a limit of a picture's pixels, which transformers writes at the top, or in ``size`` by either name."""
    size = processor.section("size") if isinstance(processor.values.get("size"), dict) else processor
    for section in (processor, size):
        for name in names:
            if section.values.get(name) is not None:
                return section.need(name, int)
    return processor.need(names[0], int)


def tables(config: MM1Config, shapes: Sequence[Shapes]) -> list[KeyTable]:
    """Return the key tables, from the sizes of the model and of the source's tensors."""
    return [
        qwen2_vl_keys(config.vision_config).add_prefixes(ENCODER, "image_encoder.")
        + connector_keys(config.connector_config, select_prefix(shapes[0], CONNECTOR)).add_prefixes(
            CONNECTOR, "connector."
        )
        + llama_keys(config.text_config, select_prefix(shapes[0], DECODER)).add_prefixes(DECODER, "decoder.")
    ]
