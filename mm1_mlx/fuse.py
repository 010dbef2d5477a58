"""Make adapters part of a model's weights, and save it as a model folder of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm1_mlx import flags
from mm1_mlx.command import entry_points
from mm1_mlx.errors import CheckpointError, UsageError


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
    from mm1_mlx.checkpoint.upload import check_login, check_repo_id, upload

    if args.upload_repo is not None:
        check_repo_id(args.upload_repo)
        check_login()
    from mm1_mlx.checkpoint import load, save
    from mm1_mlx.checkpoint.hub import find_folder
    from mm1_mlx.checkpoint.load import stored_dtype
    from mm1_mlx.tuning import fuse_adapters

    folder, made = find_folder(args.model), Path(args.save_path).expanduser()
    if made.exists() and not args.overwrite:
        raise CheckpointError(f"--save-path {made} exists; choose another folder or --overwrite it.")
    model, _ = load(folder, adapter_path=found, dtype=args.dtype)
    fuse_adapters(model, dequantize=args.dequantize)
    dtype = None if args.dtype else stored_dtype(folder)  # a CPU computes in another type
    card = _write_card(folder / "README.md", args.model)
    save(model, made, companions=folder, dtype=dtype, overwrite=args.overwrite, card=card)
    print(made)
    if args.upload_repo is not None:
        print(upload(made, args.upload_repo))


def _write_card(card: Path, model: str) -> str | None:
    """Return the card of the model before tuning with a note that says so, or None where it has none."""
    if not card.exists():
        return None
    name = Path(model).resolve().name if Path(model).exists() else model
    note = f"> These weights are those of {name} with adapters fused into them; what follows is its card.\n"
    text = card.read_text(encoding="utf-8")
    end = text.find("\n---\n", 3) + len("\n---\n") if text.startswith("---\n") else 0
    return f"{text[:end]}\n{note}\n{text[end:].lstrip()}"


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()
