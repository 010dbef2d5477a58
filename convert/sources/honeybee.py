"""Honeybee: CLIP, C-Abstractor, Vicuna. Both layouts, that of the published weights and that of April 2024.

Source: https://github.com/khanrc/honeybee; Honeybee (arXiv:2312.06742).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1_mlx.checkpoint.sizes import require_sizes
from mm1_mlx.config import CLIP_MEAN, CLIP_STD, ImageConfig, MM1Config, PromptConfig
from mm1_mlx.errors import CheckpointError

from ..c_abstractor import check_declared, connector_config, connector_keys
from ..hub import hub_ids
from ..image_encoders import clip_config, clip_values, find_prefix, transformers_keys
from ..key_table import KeyTable
from ..llama import HEAD, llama_config, llama_keys
from ..recipe import Options, Part, Recipe, Shapes, select_prefix, shapes_of
from ..source_config import SourceConfig
from ..tensors import Tensors, open_tensors
from ..tokenizers import end_token_ids, image_token_id, load_tokenizer, tokenizer_folder

ENCODER, CONNECTOR, DECODER = "vision_model.", "abstractor.", "language_model."

# Honeybee cuts a prompt here and tokenises the pieces one by one, so that each begins with a space.
HUMAN, ASSISTANT = "\nHuman: ", "\nAI: "

CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}The following is a "
    "conversation between a curious human and AI assistant. The assistant gives helpful, detailed, and polite answers "
    "to the user's questions.{% endif %}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '\nHuman: ' + message.content }}{% elif message.role == 'assistant' %}"
    "{{ '\nAI: ' + message.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nAI: ' }}{% endif %}"
)


def matches(config: SourceConfig) -> bool:
    """Say whether a folder's config.json is Honeybee's."""
    return config.values.get("architectures") == ["HoneybeeForConditionalGeneration"] or (
        config.values.get("model_type") == "mllm" and "visual_projector_config" in config
    )


def read(folder: Path, config: SourceConfig, options: Options) -> Recipe:
    """Read everything about a Honeybee checkpoint except its weights' values.

    Raises:
        CheckpointError: it is incomplete, contradicts itself, or has a D-Abstractor.
    """
    tensors = open_tensors(folder)
    projector = config.section("projector_config", "visual_projector_config")
    kind = projector.get("projector_type", str, "c-abs")
    if kind != "c-abs":
        raise CheckpointError(
            f"{projector.where}: projector_type is {kind!r}; MM1's connector is the C-Abstractor ('c-abs'), and "
            "only that is converted: take a Honeybee-C checkpoint."
        )
    shapes = shapes_of(tensors)
    connector = connector_config(
        select_prefix(shapes, CONNECTOR), num_visual_tokens=_num_visual_tokens(config, projector)
    )
    check_declared(projector, connector)
    vision = config.section("vision_config")
    tower = vision.get("encoder_type", str, "openai.clip")
    if tower != "openai.clip":
        raise CheckpointError(f"{vision.where}: encoder_type is {tower!r}, and only 'openai.clip' is known.")
    patch = shapes.get(f"{find_prefix(shapes, ENCODER)}embeddings.patch_embedding.weight")
    encoder = clip_config(
        vision,
        patch_size=patch[-1] if patch else None,
        feature_layer=projector.need("feature_layer_index", int),
    )
    decoder = llama_config(config.section("text_config"), select_prefix(shapes, DECODER))

    named = config.get("lm_config", dict, {})
    tokens = tokenizer_folder(folder, options, named.get("pretrained_tokenizer_name_or_path"))
    tokenizer = load_tokenizer(tokens)
    model = MM1Config(
        vision_config=encoder,
        connector_config=connector,
        text_config=decoder,
        image_config=ImageConfig(
            image_size=encoder.image_size,
            mean=vision.colors("image_mean", CLIP_MEAN),
            std=vision.colors("image_std", CLIP_STD),
            resize="squash",
            alpha="drop",
        ),
        image_token_id=image_token_id(tokenizer, options, ("<image>", "<unk>"), decoder.vocab_size),
        eos_token_id=end_token_ids(folder, tokenizer),
        prompt_config=PromptConfig(cut_at=(HUMAN, ASSISTANT), after_image=HUMAN),
    )
    require_sizes(model, shapes, config.where)
    base = named.get("pretrained_lm_name_or_path")
    return Recipe(
        source="honeybee",
        config=model,
        parts=(Part(tensors, *tables(model, [shapes]), source_config=config.values),),
        companions=(tokens, folder),
        origins=(folder,),
        chat_template=CHAT_TEMPLATE,
        base_models=hub_ids(base),
    )


def tables(config: MM1Config, shapes: Sequence[Shapes]) -> list[KeyTable]:
    """Return the key tables, from the sizes of the model and of the source's tensors."""
    encoder, connector = config.vision_config, config.connector_config
    return [
        transformers_keys(encoder).add_prefixes(find_prefix(shapes[0], ENCODER), "image_encoder.")
        + connector_keys(connector, select_prefix(shapes[0], CONNECTOR)).add_prefixes(CONNECTOR, "connector.")
        + llama_keys(config.text_config, select_prefix(shapes[0], DECODER)).add_prefixes(DECODER, "decoder.")
    ]


def describe(config: MM1Config, tensors: Tensors) -> tuple[dict[str, Any], KeyTable]:
    """Return the configuration and key table that a model of other origin has in Honeybee's layout.

    Raises:
        CheckpointError: a part has no place in that layout.
    """
    encoder, connector, decoder = config.vision_config, config.connector_config, config.text_config
    if config.untrained:
        raise CheckpointError(
            f"the {' and '.join(config.untrained)} is untrained; train the model, then export it."
        )
    if not (encoder.class_token and encoder.pre_norm) or encoder.final_norm:
        raise CheckpointError(
            "the image encoder is not transformers' CLIP: no public PyTorch layout has a place for it."
        )
    if connector.type != "c_abstractor" or connector.merge_size or connector.row_end:
        raise CheckpointError(f"no public PyTorch layout has a place for this {connector.type} connector.")
    if decoder.model_type != "llama":
        raise CheckpointError(f"Honeybee's layout has a Llama decoder; this one is {decoder.model_type!r}.")
    grid = connector.position_grid or 0
    shapes: dict[str, tuple[int, ...]] = {f"{CONNECTOR}pos_emb": (1, grid**2, connector.input_dims)}
    for stage, side in ((0, "before"), (2, "after")):
        if f"connector.{side}.0.shortcut.weight" in tensors.infos:
            shapes[f"{CONNECTOR}net.{stage}.b1.downsample.conv.weight"] = ()
    shapes[f"{DECODER}{HEAD}"] = (decoder.vocab_size, decoder.hidden_dims)
    values = {
        "architectures": ["HoneybeeForConditionalGeneration"],
        "model_type": "honeybee",
        "vision_config": clip_values(encoder)
        | {
            "encoder_type": "openai.clip",
            "image_mean": list(config.image_config.mean),
            "image_std": list(config.image_config.std),
        },
        "projector_config": {
            "projector_type": "c-abs",
            "num_query_tokens": connector.num_visual_tokens,
            "depth": connector.num_blocks,
            "mlp_depth": connector.num_readout_layers,
            "encoder_hidden_size": connector.input_dims,
            "hidden_size": connector.hidden_dims,
            "output_hidden_size": connector.output_dims,
            "pos_emb": connector.position_grid is not None,
            "prenorm": connector.pre_norm,
            "num_eos_tokens": connector.num_extra_tokens,
            "feature_layer_index": encoder.feature_layer,
        },
        "text_config": decoder.values | {"eos_token_id": config.to_dict()["eos_token_id"]},
    }
    return values, tables(config, [shapes])[0]


def _num_visual_tokens(config: SourceConfig, projector: SourceConfig) -> int:
    """Return the number of visual tokens, under its old or new name."""
    for section in (projector, config):
        for name in ("num_query_tokens", "num_queries"):
            if name in section:
                return section.need(name, int)
    return projector.need("num_query_tokens", int)
