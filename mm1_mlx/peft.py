"""Take a decoder's adapter to PEFT and back: ``export`` an adapter folder to its layout, ``import`` one of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm1_mlx import flags
from mm1_mlx.command import Subcommand, add_subcommands, entry_points
from mm1_mlx.errors import CheckpointError, UsageError

EXPORT = "write the decoder's LoRA or DoRA for PEFT, to be used beside the same decoder in transformers"
IMPORT = "make an adapter folder of a LoRA or DoRA that PEFT tuned on the same decoder in transformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subcommands(
        parser,
        Subcommand("export", EXPORT, add_export, run_export),
        Subcommand("import", IMPORT, add_import, run_import),
    )


def run(args: argparse.Namespace) -> None:
    args.subcommand(args)


def add_export(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument(
        "--base-model", required=True, metavar="ID",
        help="hub id or folder of the decoder in transformers, for PEFT's configuration",
    )  # fmt: skip
    parser.add_argument("--save-path", default="peft_adapter", metavar="DIR", help="folder to make")
    parser.add_argument("--decoder-only", action="store_true", help="leave out other parts that were tuned")


def run_export(args: argparse.Namespace) -> None:
    found, made = flags.adapters_of(args), Path(args.save_path).expanduser()
    if not found:
        raise UsageError("there is nothing to export; give --adapter-path DIR.")
    _require_new(made)
    from mm1_mlx.checkpoint.load import load
    from mm1_mlx.tuning import export_peft

    model, _ = load(args.model, adapter_path=found, dtype=args.dtype)
    export_peft(model, made, base_model=args.base_model, decoder_only=args.decoder_only)
    print(made)


def add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="adapter folder of PEFT")
    flags.add_model(parser, adapters=False)
    parser.add_argument("--save-path", default="adapters", metavar="DIR", help="adapter folder to make")


def run_import(args: argparse.Namespace) -> None:
    made = Path(args.save_path).expanduser()
    _require_new(made)
    from mm1_mlx.checkpoint.load import load
    from mm1_mlx.files.identity import model_identity
    from mm1_mlx.tuning import import_peft, save_adapters

    model, _ = load(args.model, dtype=args.dtype)
    identity = model_identity(model)
    tuning = import_peft(model, Path(args.folder).expanduser())
    save_adapters(model, tuning, made, base_identity=identity)
    print(made)


def _require_new(folder: Path) -> None:
    if folder.exists():
        raise CheckpointError(f"--save-path {folder} exists; choose another folder.")


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()
