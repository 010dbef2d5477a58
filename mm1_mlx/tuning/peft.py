"""Convert the decoder's adapters to PEFT's layout and back: alpha is scale x rank, the matrices are transposed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.errors import CheckpointError, ConfigError
from mm1_mlx.files.json_files import parse_json, write_json
from mm1_mlx.files.tensor_files import read_tensors, save_tensors
from mm1_mlx.files.weights import check_weights, evaluate_weights, list_some
from mm1_mlx.files.writing import new_folder
from mm1_mlx.model.decoder import Decoder
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.tuning import adapters
from mm1_mlx.tuning.folder import AGAIN
from mm1_mlx.tuning.settings import PartTuning, Tuning

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
START = "base_model.model."
LEAVES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
# Keys that must be empty in a configuration, because they change what the matrices mean.
CHANGES = (
    "alpha_pattern",
    "rank_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
)
# Ways of initialisation that leave the model's weights unchanged.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def export_peft(model: MM1, folder: str | Path, *, base_model: str, decoder_only: bool = False) -> None:
    """Write the decoder's adapter for PEFT, to be used with the same decoder in transformers.

    Linears keep their names, which are transformers' in our decoder and in most of mlx-lm's.

    Args:
        model: with an adapter in its decoder, loaded or trained.
        folder: the folder to make.
        base_model: folder or hub id of the decoder in transformers.
        decoder_only: leave out other tuned parts instead of refusing them.

    Raises:
        CheckpointError: the folder exists, or PEFT's layout has no place for what was tuned.
    """
    others = sorted(adapters.tuned_parts(model) - {"decoder"})
    if others and not decoder_only:
        raise CheckpointError(
            f"the {' and the '.join(others)} was tuned too, and PEFT's layout of a decoder has no place for that; "
            "`decoder_only` leaves it out."
        )
    found = adapters.adapter_layers(model)
    layers = {path: layer for path, layer in found.items() if path.startswith("decoder.")}
    if not layers:
        raise CheckpointError("the decoder has no LoRA or DoRA, and PEFT's layout holds nothing else.")
    strange = [path for path, layer in layers.items() if "linear" not in layer or layer.lora_a.ndim != 2]
    if strange:
        raise CheckpointError(f"PEFT's layout holds adapters of linears, not of {list_some(strange)}.")
    shapes = {(layer.lora_a.shape[1], layer.scale, "m" in layer) for layer in layers.values()}
    if len(shapes) > 1:
        raise CheckpointError("the ranks of the decoder's adapters differ; export one adapter at a time.")
    (rank, scale, dora) = shapes.pop()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": int(scale * rank) if float(scale * rank).is_integer() else scale * rank,
        "lora_dropout": adapters.tunings_of(model)[-1].decoder.dropout,
        "target_modules": sorted(_their_name(model, path) for path in layers),
        "use_dora": dora,
        "bias": "none",
        "inference_mode": True,
    }
    tensors = {
        f"{START}{_their_name(model, path)}.{theirs}": layer[ours].T
        for path, layer in layers.items()
        for ours, theirs in LEAVES.items()
        if ours in layer
    }
    with new_folder(Path(folder)) as made:
        save_tensors(made / WEIGHTS, tensors, metadata={"format": "pt"})
        write_json(made / CONFIG, config)


def import_peft(model: MM1, folder: str | Path) -> Tuning:
    """Put PEFT's LoRA or DoRA of the decoder into an untouched model.

    PEFT does not record which weights an adapter was tuned on. To save it as an adapter folder, which does, keep
    ``model_identity(model)`` from before and pass it to ``save_adapters``.

    Returns:
        How the model is tuned now, for ``save_adapters``.

    Raises:
        CheckpointError: the folder is incomplete or damaged, does not fit the decoder, or uses more of PEFT than
            LoRA and DoRA of linears; the model is unchanged.
        ValueError: the model has been tuned or has adapters.
    """
    folder = Path(folder)
    config = parse_json(folder / CONFIG, f"{folder} has no {CONFIG}; give a folder of PEFT's.")
    own = _read_config(folder / CONFIG, config)
    theirs = read_tensors(folder / WEIGHTS, again=AGAIN)
    evaluate_weights(theirs, None, folder)
    tensors = dict(_convert_tensor(model, key, value, folder) for key, value in theirs.items())
    paths = {key.rpartition(".")[0].removeprefix("decoder.") for key in tensors}
    frozen = PartTuning("frozen")
    try:
        decoder = PartTuning.from_dict(own | {"keys": _choose_keys(model, paths)})
        tuning = Tuning(image_encoder=frozen, connector=frozen, decoder=decoder)
        adapters.prepare(model, tuning)
    except ConfigError as error:
        raise CheckpointError(f"{folder} does not fit the decoder: {error}") from None
    try:
        check_weights(adapters.adapter_weights(model), tensors, folder, again=AGAIN)
    except CheckpointError:
        adapters.take_off(model)
        raise
    model.load_weights(list(tensors.items()), strict=False)
    return tuning


def _read_config(path: Path, config: Any) -> dict[str, Any]:
    """Return the arguments for ``PartTuning`` that PEFT's configuration gives."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else config
        raise CheckpointError(f"{path}: peft_type is {found!r}, expected 'LORA'.")
    changes = [key for key in CHANGES if config.get(key)]
    changes += ["bias"] if config.get("bias", "none") != "none" else []
    changes += ["init_lora_weights"] if config.get("init_lora_weights") not in STARTS else []
    if changes:
        raise CheckpointError(
            f"{path} sets {list_some(changes)}; LoRA and DoRA of linears are read, nothing beyond."
        )
    try:
        rank, alpha = config["r"], config["lora_alpha"]
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        how = "dora" if config.get("use_dora") else "lora"
        return {"how": how, "rank": rank, "scale": scale, "dropout": config.get("lora_dropout", 0.0)}
    except (KeyError, TypeError, ZeroDivisionError):
        raise CheckpointError(f"{path}: r and lora_alpha are not two numbers above 0.") from None


def _convert_tensor(model: MM1, key: str, value: mx.array, folder: Path) -> tuple[str, mx.array]:
    """Return our key and layout of one of PEFT's tensors."""
    for ours, theirs in LEAVES.items():
        path = key.removeprefix(START).removesuffix(f".{theirs}")
        if key == f"{START}{path}.{theirs}":
            return f"decoder.{_our_name(model, path)}.{ours}", value.T
    raise CheckpointError(f"{folder / WEIGHTS} holds {key}, which is no matrix of LoRA or DoRA of a linear.")


def _our_name(model: MM1, path: str) -> str:
    """Return our name of a linear of the decoder, which may be inside a model that reads pictures in transformers."""
    inner = re.sub(r"^(model\.)?(language_model\.)?(model\.)?", "", path)
    known = {name for name, _ in model.decoder.named_modules()}
    return next((name for name in (path, inner, f"model.{inner}") if name in known), path)


def _their_name(model: MM1, path: str) -> str:
    """Return transformers' name of a linear: its layers are under ``model`` and its head beside it, as in mlx-lm's
    decoders.
    """
    path = path.removeprefix("decoder.")
    return f"model.{path}" if isinstance(model.decoder, Decoder) and path != "lm_head" else path


def _choose_keys(model: MM1, paths: set[str]) -> list[str]:
    """Return the linears by their names in a layer if every layer has them all, and otherwise by their whole paths."""
    names = {path: re.sub(r"^(.*\.)?layers\.\d+\.", "", path) for path in paths}
    inside = {path: name for path, name in names.items() if path != name}
    whole = len(inside) == len(set(inside.values())) * len(model.decoder.layers)
    return sorted(set(names.values()) if whole else paths)
