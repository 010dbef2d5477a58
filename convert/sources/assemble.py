"""Assemble a new model from a public image encoder, a new connector and a public decoder, as MM1 itself began.

Source: MM1, "Model Architecture Ablations" and "Pre-training Data Ablation": the connector starts untrained.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.arrays import flatten
from mm1_mlx.checkpoint.hub import EMBEDDED
from mm1_mlx.checkpoint.sizes import require_proportion
from mm1_mlx.config import (
    CLIP_MEAN,
    CLIP_STD,
    ConnectorConfig,
    ImageConfig,
    ImageEncoderConfig,
    MlxLmDecoderConfig,
    MM1Config,
)
from mm1_mlx.errors import CheckpointError, ConfigError
from mm1_mlx.model.connector import make_connector
from mm1_mlx.model.mlx_lm_parts import build_decoder, load_decoder

from ..decoder_settings import complete_settings, find_kind
from ..gguf_decoder import read_gguf_decoder
from ..gguf_file import GgufFile, find_gguf, is_gguf
from ..gguf_tokenizer import make_companions
from ..hub import find_source, hub_ids
from ..image_encoders import (
    TEXT_HALF,
    aimv2_config,
    aimv2_keys,
    aimv2_publisher_keys,
    clip_config,
    find_prefix,
    note_text_half,
    open_clip_config,
    open_clip_keys,
    siglip_config,
    transformers_keys,
)
from ..key_table import SAME, KeyTable, Move
from ..recipe import PREPROCESSOR, LoadedTensors, Options, Part, Recipe, shapes_of
from ..source_config import read_json
from ..tensors import Tensors, open_tensors
from ..tokenizers import end_token_ids, image_token_id, load_tokenizer, tokenizer_folder
from ..vocabulary import add_token, enlarge_vocabulary
from . import mm1

# Tokens of public tokenizers that never occur in text.
IMAGE_TOKENS = (
    "<image>",
    "<|image|>",
    "<|image_pad|>",
    "<image_soft_token>",
    "<|vision_pad|>",
    "<unused0>",
    "<|reserved_special_token_0|>",
    "[control_8]",
    "<unk>",
)
CONNECTOR_WIDTH = 1024  # of Honeybee's convolutions; narrower if the encoder or decoder is
NOT_SIZES = {"architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
HALF = (0.5, 0.5, 0.5)
NEW = "The connector is new and untrained: train the model before you ask it anything."
KEPT = "The connector is kept, but was not trained with this decoder: tune the model before you ask it about pictures."
UNPACKED = (
    "The decoder's packed weights are unpacked without rounding, to float32 unless another type is asked for; -q packs "
    "them as MLX does."
)


def assemble(options: Options) -> Recipe:
    """Put together a new model of ``options.encoder`` and ``options.decoder``.

    Raises:
        CheckpointError: one of them is not given, not known, or not of a kind that fits.
        ConfigError: the decoder takes no pictures, or the sizes fit no connector.
    """
    if options.encoder is None or options.decoder is None:
        raise CheckpointError("nothing to convert: give SOURCE, or `encoder` and `decoder` for a new model.")
    encoder_folder = EMBEDDED.get(options.encoder) or find_source(options.encoder)
    folder = find_gguf(find_source(options.decoder))
    encoder, image, tensors, encoder_table = _encoder(encoder_folder, options)
    try:
        decoder, part, origin = _gguf_decoder(folder) if is_gguf(folder) else _decoder(folder)
    except ConfigError as error:
        raise ConfigError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    require_proportion(encoder.to_dict(), shapes_of(tensors), encoder_folder)
    connector, connector_part, untrained = _connector(encoder_folder, options, encoder, decoder, tensors)
    tokens = tokenizer_folder(origin, options)
    tokenizer = load_tokenizer(tokens)
    packed = isinstance(part.tensors, GgufFile) and part.tensors.packed
    image_id, decoder, part, added = _image_token(tokenizer, options, decoder, part)
    return Recipe(
        source="assemble",
        config=MM1Config(
            vision_config=encoder,
            connector_config=connector,
            text_config=decoder,
            image_config=image,
            image_token_id=image_id,
            eos_token_id=end_token_ids(origin, tokenizer),
            untrained=("connector",) if untrained else (),
        ),
        parts=(
            Part(tensors, encoder_table),
            connector_part,
            part,
        ),
        companions=(tokens, origin),
        origins=(encoder_folder, origin),
        base_models=hub_ids(options.encoder, options.decoder),
        notes=(
            *note_text_half(tensors.infos),
            *([UNPACKED] if packed else []),
            *([f"{added} was added to the tokenizer as token {image_id}."] if added else []),
            KEPT if options.keep_connector else NEW,
        ),
        added_token=added,
    )


def _connector(
    folder: Path,
    options: Options,
    encoder: ImageEncoderConfig,
    decoder: MlxLmDecoderConfig,
    tensors: Tensors,
) -> tuple[ConnectorConfig, Part, bool]:
    """Return a new connector's sizes and tensors, or those kept of the encoder's folder; and whether it is untrained."""
    if options.keep_connector:
        for name in ("connector", "num_visual_tokens", "feature_layer", "seed"):
            if getattr(options, name) != getattr(Options, name):
                raise CheckpointError(f"`{name}` is for a new connector; leave it or `keep_connector` out.")
        return mm1.read_connector(folder, tensors, decoder.hidden_dims)
    config = _connector_config(options, encoder, decoder)
    fresh = _initialize_connector(config, options.seed, encoder_dtype(tensors))
    return config, _keep_names(LoadedTensors(fresh, folder, "new connector")), True


def _image_token(
    tokenizer: Any, options: Options, decoder: MlxLmDecoderConfig, part: Part
) -> tuple[int, MlxLmDecoderConfig, Part, str | None]:
    """Return the id of the token that stands for a picture, the decoder that has it, its tensors, and a new token."""
    if not options.add_image_token:
        advice = ", or add a new one with `add_image_token`"
        found = image_token_id(tokenizer, options, IMAGE_TOKENS, decoder.vocab_size, advice=advice)
        return found, decoder, part, None
    token = options.image_token or IMAGE_TOKENS[0]
    found = add_token(tokenizer, token, decoder.vocab_size)
    return found, *enlarge_vocabulary(decoder, part, found + 1), token


def _gguf_decoder(path: Path) -> tuple[MlxLmDecoderConfig, Part, Path]:
    """Return the configuration and tensors of a GGUF file's decoder, and a folder with its tokenizer and card."""
    file = GgufFile(path)
    decoder, table = read_gguf_decoder(file)
    build_decoder(decoder.values)  # refuses settings that mlx-lm does not compute with
    return decoder, Part(file, table), make_companions(file)


def _decoder(folder: Path) -> tuple[MlxLmDecoderConfig, Part, Path]:
    """Return a decoder's configuration, its weights, opened but not read, and the folder that it was found in."""
    config = read_json(folder / "config.json")
    values: dict[str, Any] = config.values | {"model_type": find_kind(config)}
    if values.get("quantization") or values.get("quantization_config"):
        raise CheckpointError(
            f"{config.where}: the decoder is quantized; take the original and `quantize` it."
        )
    shapes = shapes_of(open_tensors(folder))
    for section in ({}, *(values.get(name) for name in ("text_config", "vision_config"))):
        if isinstance(section, dict):
            require_proportion(section or values, shapes, config.where)
    if "tie_word_embeddings" not in values and "lm_head.weight" in shapes:
        values["tie_word_embeddings"] = False  # mlx-lm ties some decoders by default, and then drops the head
    if isinstance(values.get("text_config"), dict):
        values["text_config"] = complete_settings(values["text_config"])
    else:
        values = complete_settings(values)
        build_decoder(
            MlxLmDecoderConfig(values).values
        )  # refuses a decoder that takes no pictures before its weights are read
    arrays, own = load_decoder(folder, values)
    if "lm_head.weight" in arrays:
        own["tie_word_embeddings"] = False
    elif not any(key.startswith("output") for key in arrays):  # InternLM's name of a head
        own["tie_word_embeddings"] = True
    weights = LoadedTensors({f"decoder.{key}": value for key, value in arrays.items()}, folder, "decoder")
    config = MlxLmDecoderConfig({key: value for key, value in own.items() if key not in NOT_SIZES})
    return config, _keep_names(weights), folder


def encoder_dtype(tensors: Tensors) -> mx.Dtype:
    """Return the type in which the encoder's floating-point tensors are stored."""
    return next(info.dtype for info in tensors.infos.values() if mx.issubdtype(info.dtype, mx.floating))


def _keep_names(tensors: LoadedTensors) -> Part:
    """Return a part whose tensors keep their names, which are already ours."""
    return Part(tensors, KeyTable({name: Move((name,), SAME) for name in tensors.infos}))


def _initialize_connector(config: ConnectorConfig, seed: int, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Return random weights for a new connector."""
    if not 0 <= seed < 2**64:
        raise CheckpointError(f"`seed` is {seed}, expected 0 to 2^64 - 1.")
    mx.random.seed(seed)
    weights = flatten(make_connector(config).parameters())
    return {f"connector.{key}": value.astype(dtype) for key, value in weights.items()}


def _connector_config(
    options: Options, encoder: ImageEncoderConfig, decoder: MlxLmDecoderConfig
) -> ConnectorConfig:
    width = min(CONNECTOR_WIDTH, encoder.hidden_dims, decoder.hidden_dims)
    convolutions = options.connector == "c_abstractor"
    return ConnectorConfig(
        type=options.connector,
        num_visual_tokens=options.num_visual_tokens,
        input_dims=encoder.hidden_dims,
        hidden_dims=0 if options.connector == "average_pool" else width,
        output_dims=decoder.hidden_dims,
        num_blocks=3 if convolutions else 0,
        num_readout_layers=2 if convolutions else 1,
        position_grid=encoder.grid_side if convolutions else None,
        num_heads=math.gcd(width, 8) if options.connector == "attention_pool" else 1,
    )


def _encoder(folder: Path, options: Options) -> tuple[ImageEncoderConfig, ImageConfig, Tensors, KeyTable]:
    """Return an encoder's sizes, its preprocessing, tensors and key table."""
    if (folder / "config.json").is_file() and mm1.matches(read_json(folder / "config.json")):
        return mm1.read_encoder(folder, options)
    tensors = open_tensors(folder)
    layer = -1 if options.feature_layer is None else options.feature_layer
    if any(name.startswith("visual.") for name in tensors.infos):
        values = read_json(folder / "open_clip_config.json")
        encoder = open_clip_config(values.section("model_cfg"), feature_layer=layer)
        preprocess = values.section("preprocess_cfg") if "preprocess_cfg" in values else values
        mode = preprocess.get("resize_mode", str, "shortest")
        if mode not in ("shortest", "squash"):
            raise CheckpointError(
                f"{preprocess.where}: resize_mode is {mode!r}, expected shortest or squash."
            )
        mean, std = preprocess.colors("mean", CLIP_MEAN), preprocess.colors("std", CLIP_STD)
        image = _image_config(encoder, mean=mean, std=std, squash=mode == "squash")
        text = ("transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*", "text_projection")
        table = open_clip_keys(encoder).add_prefixes("visual.", "image_encoder.")
        return (
            encoder,
            image,
            tensors,
            table + KeyTable({}, (*text, "logit_scale", "logit_bias", "attn_mask")),
        )
    values = read_json(folder / "config.json")
    vision = values.section("vision_config") if "vision_config" in values else values
    kind = str(vision.get("model_type", str, values.get("model_type", str, "")))
    mean, std, prefix = CLIP_MEAN, CLIP_STD, find_prefix(tensors.infos)
    if "aimv2" in kind:
        encoder = aimv2_config(vision, feature_layer=layer)
        publisher = any(name.startswith("trunk.") for name in tensors.infos)
        table = aimv2_publisher_keys(encoder) if publisher else aimv2_keys(encoder)
    elif "siglip" in kind and "siglip2" not in kind:  # fixed sizes of SigLIP 2 say "siglip" too
        encoder = siglip_config(vision, feature_layer=layer, final_norm=layer == -1)
        table, mean, std = transformers_keys(encoder), HALF, HALF
    elif "clip" in kind and "siglip" not in kind:
        encoder = clip_config(vision, feature_layer=layer)
        table = transformers_keys(encoder)
    else:
        raise CheckpointError(
            f"{values.where}: the image encoder is {kind!r}; CLIP (transformers or open_clip), SigLIP, SigLIP 2 for "
            "pictures of a fixed size, AIMv2, and that of a model folder are known."
        )
    image = _image_config(encoder, mean=mean, std=std, squash="siglip" in kind, folder=folder)
    table = table.add_prefixes(prefix, "image_encoder.")
    return encoder, image, tensors, table + KeyTable({}, TEXT_HALF)


def _image_config(
    encoder: ImageEncoderConfig, *, mean: Any, std: Any, squash: bool, folder: Path | None = None
) -> ImageConfig:
    """Return the preprocessing of preprocessor_config.json if there is one; else squash, or shorter side and crop."""
    path = folder / PREPROCESSOR if folder else None
    resize = "squash" if squash else "crop"
    if path is not None and path.exists():
        values = read_json(path)
        mean, std = values.colors("image_mean", mean), values.colors("image_std", std)
        size = values.values.get("size")
        if isinstance(size, dict):
            resize = "crop" if "shortest_edge" in size else "squash"
    return ImageConfig(image_size=encoder.image_size, mean=tuple(mean), std=tuple(std), resize=resize)
