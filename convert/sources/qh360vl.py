"""360VL: CLIP, two C-Abstractors (quadrants and whole picture), Llama 3.

Source: https://github.com/360CVGroup/360VL.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mm1_mlx.checkpoint.sizes import require_sizes
from mm1_mlx.config import CLIP_MEAN, CLIP_STD, ImageConfig, MM1Config, PromptConfig
from mm1_mlx.errors import CheckpointError

from ..c_abstractor import check_declared, connector_config, connector_keys
from ..hub import find_source, hub_ids
from ..image_encoders import TEXT_HALF, clip_config, find_prefix, note_text_half, transformers_keys
from ..key_table import KeyTable
from ..llama import llama_config, llama_keys
from ..recipe import Options, Part, Recipe, Shapes, select_prefix, shapes_of
from ..source_config import SourceConfig, read_json
from ..tensors import Tensors, open_tensors
from ..tokenizers import end_token_ids, image_token_id, load_tokenizer, tokenizer_folder

DETAIL, OVERVIEW = "model.mm_projector_ctt.", "model.mm_projector_ori."
INNER_ENCODER = "model.vision_tower.vision_tower."

SUBFOLDER = "vision_tower"  # where an export puts the encoder
IMAGE_TOKEN = "<|reserved_special_token_44|>"  # 128049 in Llama 3's vocabulary, 128052 in Llama 3.1's

SYSTEM = (
    "You are a multilingual, helpful, respectful and honest assistant who can respond in the same language, depending "
    "on the language of the question. Try to be as helpful as possible while still being safe. Your answer should not "
    "contain anything that is false, unhealthy, harmful, immoral, racist, sexist, toxic, dangerous, or illegal, and if "
    "the question relates to such content, please decline to answer. Make sure your answer is socially fair and "
    "positive. If a question doesn't make any sense, or is inconsistent with the facts, explain why instead of "
    "answering the wrong answer. If you don't know the answer to a question, don't share false information."
)


def matches(config: SourceConfig) -> bool:
    """Say whether a folder's config.json is 360VL's."""
    return config.values.get("model_type") == "QH_360VL"


def read(folder: Path, config: SourceConfig, options: Options) -> Recipe:
    """Read everything about a 360VL checkpoint except its weights' values.

    Raises:
        CheckpointError: it is incomplete, contradicts itself, or its image encoder is not at hand.
    """
    _require_known(config)
    tensors = open_tensors(folder)
    shapes = shapes_of(tensors)
    projector = config.section("visual_projector_config")
    for prefix in (DETAIL, OVERVIEW):
        connector = connector_config(
            select_prefix(shapes, prefix),
            num_visual_tokens=projector.need("num_queries", int),
            type="c_abstractor_pair",
        )
        check_declared(projector, connector)
    decoder = llama_config(SourceConfig({**config.values, "model_type": "llama"}, config.where), shapes)
    tower, encoder_config = _encoder(folder, config, tensors, options)
    encoder = clip_config(encoder_config, feature_layer=config.need("mm_vision_select_layer", int))

    tokens = tokenizer_folder(folder, options)
    tokenizer = load_tokenizer(tokens)
    model = MM1Config(
        vision_config=encoder,
        connector_config=connector,
        text_config=decoder,
        image_config=ImageConfig(
            image_size=encoder.image_size,
            mean=CLIP_MEAN,
            std=CLIP_STD,
            resize="pad",
            alpha="drop",
            sub_images="quadrants",
            max_sub_images=4,
        ),
        image_token_id=image_token_id(tokenizer, options, (IMAGE_TOKEN,), decoder.vocab_size),
        eos_token_id=end_token_ids(folder, tokenizer, ("<|eot_id|>",)),
        prompt_config=PromptConfig(after_image="\n", system=SYSTEM),
    )
    require_sizes(model, {**shapes, **shapes_of(tower)}, config.where)
    sets = [tensors] if tower is tensors else [tensors, tower]
    key_tables = tables(model, [shapes_of(one) for one in sets])
    apart = (
        {"mm_vision_tower": SUBFOLDER} if tower is not tensors else {"vision_config": encoder_config.values}
    )
    values = {**config.values, **apart}
    parts = [Part(tensors, key_tables[0], source_config=values)]
    if tower is not tensors:
        parts.append(Part(tower, key_tables[1], encoder_config.values, SUBFOLDER))
    return Recipe(
        source="qh360vl",
        config=model,
        parts=tuple(parts),
        companions=(tokens, folder),
        origins=tuple(dict.fromkeys((folder, next(iter(tower.shards)).parent))),
        base_models=hub_ids(config.values.get("_name_or_path")),
        notes=note_text_half(tower.infos),
    )


def _require_known(config: SourceConfig) -> None:
    """Refuse settings that 360VL's own code allows, but no published checkpoint has."""
    for key, kind, expected in (
        ("proj_2", bool, True),
        ("image_aspect_ratio", str, "pad"),
        ("mm_vision_select_feature", str, "patch"),
    ):
        found = config.need(key, kind)
        if found != expected:
            raise CheckpointError(
                f"{config.where}: {key} is {found!r}; only {expected!r} is known for 360VL."
            )


def tables(config: MM1Config, shapes: Sequence[Shapes]) -> list[KeyTable]:
    """Return the key tables, from the sizes of the model and of the source's tensors; the encoder may have its own."""
    encoder = transformers_keys(config.vision_config)
    main = llama_keys(config.text_config, shapes[0]).add_prefixes("", "decoder.")
    for prefix, ours in ((DETAIL, "connector.detail."), (OVERVIEW, "connector.overview.")):
        main += connector_keys(config.connector_config, select_prefix(shapes[0], prefix)).add_prefixes(
            prefix, ours
        )
    if len(shapes) == 1:
        return [main + encoder.add_prefixes(find_prefix(shapes[0], INNER_ENCODER), "image_encoder.")]
    own = encoder.add_prefixes(find_prefix(shapes[1]), "image_encoder.")
    return [main, own + KeyTable({}, TEXT_HALF)]


def _encoder(
    folder: Path, config: SourceConfig, tensors: Tensors, options: Options
) -> tuple[Tensors, SourceConfig]:
    """Return the CLIP encoder's tensors and configuration, which are among the others or in a folder of their own."""
    inside = any(name.startswith(INNER_ENCODER) for name in tensors.infos)
    if inside and "vision_config" in config:  # as an export writes it
        return tensors, config.section("vision_config")
    name = options.encoder or config.need("mm_vision_tower", str)
    own = folder / name
    place = own if options.encoder is None and own.is_dir() else find_source(name)
    values = read_json(place / "config.json")
    if "vision_config" in values:
        values = values.section("vision_config")
    if inside:
        return tensors, values
    return open_tensors(place), values
