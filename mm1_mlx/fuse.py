"""Make adapters part of a model's weights, and save it as a model folder of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_mlx import flags
from mm1_mlx.command import entry_points
from mm1_mlx.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import mlx.core as mx

    from mm1_mlx.model.mm1 import MM1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument("--save-path", default="fused_model", metavar="DIR", help="model folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace it where it exists")
    parser.add_argument(
        "--dequantize", action="store_true", help="unpack a quantized model, in place of packing it again"
    )
    parser.add_argument("--upload-repo", metavar="ID", help="upload the result to the Hugging Face hub")


def run(args: argparse.Namespace) -> None:
    found = flags.adapters_of(args)
    if not found:
        raise UsageError("there is nothing to fuse; give --adapter-path DIR.")
    from mm1_mlx.checkpoint.upload import check_can_upload, check_repo_id, upload

    if args.upload_repo is not None:
        check_repo_id(args.upload_repo)
        check_can_upload()
    from mm1_mlx.arrays import flatten
    from mm1_mlx.checkpoint.hub import find_folder
    from mm1_mlx.checkpoint.load import load, stored_dtypes
    from mm1_mlx.checkpoint.save import cast_weights, save
    from mm1_mlx.tuning import fuse_adapters

    folder, made = find_folder(args.model), Path(args.save_path).expanduser()
    if made.exists() and not args.overwrite:
        raise CheckpointError(f"--save-path {made} exists; choose another folder or --overwrite it.")
    model, _ = load(folder, adapter_path=found, dtype=args.dtype)
    fuse_adapters(model, dequantize=args.dequantize)
    types = None if args.dtype else stored_dtypes(folder)  # a CPU computes in another type
    card = _card(model, cast_weights(flatten(model.parameters()), types), folder, args)
    save(model, made, companions=folder, dtype=types, overwrite=args.overwrite, card=card)
    print(made)
    if args.upload_repo is not None:
        print(upload(made, args.upload_repo))


def _card(model: MM1, weights: dict[str, mx.array], folder: Path, args: argparse.Namespace) -> str:
    """Return the card of the fused model, which is another than the one it was made of."""
    from mm1_mlx.arrays import main_dtype
    from mm1_mlx.checkpoint.card import (
        CardFacts,
        describe_parts,
        model_card,
        source_base_models,
        source_license,
    )
    from mm1_mlx.checkpoint.quantize import stored_bits
    from mm1_mlx.checkpoint.upload import is_hub_id

    local = Path(args.model).exists()
    name = Path(args.model).resolve().name if local else args.model
    packed = model.config.quantization
    return model_card(
        CardFacts(
            name=args.upload_repo or Path(args.save_path).name,
            source=f"{name} with adapters fused into its weights",
            checked_with=None,
            base_models=[name] if not local and is_hub_id(name) else source_base_models(folder),
            license=source_license(folder),
            parts=describe_parts(model.config),
            dtype=str(main_dtype(weights.values())).removeprefix("mlx.core."),
            bits_per_weight=stored_bits(model, weights) if packed else None,
            untrained=model.config.untrained,
            parity=None,
        )
    )


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()
