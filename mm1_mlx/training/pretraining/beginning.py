"""The model that a recipe begins with: one from a folder, or one put together from parts, of which some are new.

Source: MM1, "Model Architecture Ablations": encoder and decoder are already trained, the connector is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.checkpoint.load import read_config, read_model
from mm1_mlx.checkpoint.skeleton import skeleton
from mm1_mlx.checkpoint.tokenizer import load_tokenizer_of
from mm1_mlx.config import MM1Config
from mm1_mlx.errors import ConfigError
from mm1_mlx.files.json_files import parse_json
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.presets import preset
from mm1_mlx.settings import EMBEDDED_MODEL
from mm1_mlx.training.pretraining.recipe import SECTIONS, ModelSource

Values = dict[str, Any]
FRESH = {  # how config.json names a part that is untrained
    "image_encoder": "image encoder",
    "connector": "connector",
    "decoder": "decoder",
}


@dataclass(frozen=True)
class Beginning:
    """What a stage starts from."""

    model: MM1
    processor: Processor
    companions: Path  # a folder with the tokenizer's files

    def with_image_config(self, changes: Values) -> Beginning:
        """Return the same model for pictures that are prepared in another way.

        The encoder's position embeddings are interpolated if the number of patches changes.

        Args:
            changes: new values of ``image_config``, by key.

        Raises:
            ConfigError: the changes do not fit each other or the model.
        """
        if not changes:
            return self
        processor = self.processor.with_image_config(**changes)
        self.model.config = processor.config
        return replace(self, processor=processor)


def begin_with(folder: str | Path, *, dtype: str, sizes_alone: bool = False) -> Beginning:
    """Load the model that a stage starts with from a folder or hub id.

    Args:
        folder: model folder or hub id, as for ``load``.
        dtype: type of the weights.
        sizes_alone: read no weights, since nothing will be computed.

    Raises:
        MM1Error: there is no such model, or its folder is not usable.
    """
    model, processor = skeleton(str(folder), dtype=dtype) if sizes_alone else read_model(folder, dtype=dtype)
    return Beginning(model, processor, find_folder(folder, weights=not sizes_alone))


def begin(source: ModelSource, *, seed: int, dtype: str, sizes_alone: bool = False) -> Beginning:
    """Load or make the model that a recipe begins with.

    Args:
        source: where the model or its parts come from.
        seed: seed of new weights.
        dtype: type of all weights.
        sizes_alone: read no weights, since nothing will be computed.

    Raises:
        MM1Error: a folder is not usable, or parts and sizes do not fit each other.
    """
    if source.folder is not None:
        return begin_with(source.folder, dtype=dtype, sizes_alone=sizes_alone)
    config, companions = sizes_of(source)
    tokenizer = load_tokenizer_of(companions, config)
    mx.random.seed(seed)
    model = MM1(config)
    model.set_dtype(getattr(mx, dtype))
    if not sizes_alone:
        for part in ("image_encoder", "decoder"):
            if (folder := getattr(source, part)) is not None:
                taken, _ = read_model(folder, dtype=dtype, lazy=True)
                model[part].load_weights(tree_flatten(taken[part].parameters()), strict=True)
        mx.eval(model.parameters())
    model.eval()
    return Beginning(model, Processor(tokenizer, config), companions)


def sizes_of(source: ModelSource) -> tuple[MM1Config, Path]:
    """Return the configuration of a model that is put together from parts, and the folder of its tokenizer.

    Raises:
        MM1Error: a folder is not usable, sizes are missing, or parts and sizes do not fit each other.
    """
    values = preset(source.preset).to_dict() if source.preset else {}
    values = {name: values[name] for name in SECTIONS if name in values}
    if source.image_encoder is not None:
        taken = _plain_config(source.image_encoder)
        values |= {
            "vision_config": taken.vision_config.to_dict(),
            "image_config": taken.image_config.to_dict(),
        }
    if source.decoder is not None:
        values["text_config"] = _plain_config(source.decoder).text_config.to_dict()
    untrained = [words for part, words in FRESH.items() if _is_untrained(getattr(source, part, None), words)]
    for name in SECTIONS:
        if (changes := getattr(source, name)) is not None:
            values[name] = values.get(name, {}) | changes
    lacking = [name for name in SECTIONS if name not in values]
    if lacking:
        raise ConfigError(
            f"`model` lacks {', '.join(lacking)}; name a preset or a model folder to take the part from, or write "
            "the section as config.json has it."
        )
    connector = _fit_connector(values) | (source.connector_config or {})
    folder, token = _tokenizer(source)
    config = values | token | {"connector_config": connector, "untrained": untrained}
    return MM1Config.from_dict(config), folder


def _plain_config(name: str) -> MM1Config:
    config = read_config(find_folder(name, weights=False))
    if config.quantization is not None:
        raise ConfigError(
            f"{name} is quantized, and packed weights are not trained in full; take the original."
        )
    return config


def _is_untrained(name: str | None, part: str) -> bool:
    return name is None or part in read_config(find_folder(name, weights=False)).untrained


def _fit_connector(values: Values) -> Values:
    """Return the connector's section with widths and a position grid that fit the encoder and the decoder."""
    vision, text = values["vision_config"], values["text_config"]
    fitted = {
        "input_dims": vision.get("hidden_dims"),
        "output_dims": text.get("hidden_dims", text.get("hidden_size")),
    }
    if values["connector_config"].get("position_grid") is not None:
        fitted["position_grid"] = vision.get("image_size", 0) // max(vision.get("patch_size", 1), 1)
    return values["connector_config"] | fitted


def _tokenizer(source: ModelSource) -> tuple[Path, Values]:
    """Return the folder of the tokenizer, and its settings: the ids of pictures and of ends, and the prompt format."""
    name = source.decoder or source.tokenizer or (EMBEDDED_MODEL if source.preset == EMBEDDED_MODEL else None)
    if name is None:
        raise ConfigError(
            "`model` lacks tokenizer: a new decoder needs one; give a folder with tokenizer.json, or a model folder."
        )
    folder = find_folder(name, weights=False)
    token: Values = {}
    about = folder / "config.json"
    if about.exists() and parse_json(about, "").get("model_type") == "mm1":
        known = read_config(folder)
        token = {"image_token_id": known.image_token_id, "eos_token_id": known.eos_token_id}
        token["prompt_config"] = known.prompt_config.to_dict()
    if source.image_token_id is not None:
        token["image_token_id"] = source.image_token_id
    if "image_token_id" not in token:
        raise ConfigError(
            f"the tokenizer of {folder} does not tell which token stands for a picture; give image_token_id."
        )
    return folder, token
