"""Turn a PyTorch checkpoint into a model folder; check one; write one back.

``python -m mm1_mlx.convert SOURCE --output DIR``, or ``check DIR …`` or ``export DIR …`` in the place of SOURCE. In a
checkout that is not installed, ``python -m convert``.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import get_args

from mm1_mlx.command import exit_process, find_command_name, run_command
from mm1_mlx.image_config import Alpha
from mm1_mlx.settings import BITS, DTYPES, PackingMode

CONVERT = """Turn a PyTorch checkpoint of MM1's architecture into a model folder.

SOURCE is a folder or a hub id; its layout is found out from its config.json. Without SOURCE, --encoder and
--decoder put together a new model, whose connector must then be trained. Two other commands stand in the place of
SOURCE: `check --help` and `export --help` tell of them."""

SOURCE_NAMES = ("honeybee", "hyperclovax", "qh360vl", "kanana", "mm1")


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    from .choices import NewConnector

    parser.add_argument("source", nargs="?", help="folder or hub id of the checkpoint")
    parser.add_argument("--hf-path", metavar="SOURCE", help="the same, as mlx-lm's convert has it")
    parser.add_argument("--output", "--mlx-path", required=True, metavar="DIR", help="model folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    parser.add_argument(
        "--source", dest="kind", choices=SOURCE_NAMES, help="layout, in place of finding it out"
    )
    parser.add_argument("--tokenizer", help="folder or hub id, where the source has none")
    parser.add_argument("--image-token", help="token that stands for a picture, in place of the source's")
    parser.add_argument(
        "--alpha", choices=get_args(Alpha),
        help="what transparent pixels become: white, as in a new model, or the colours stored under them (drop), as in "
        "the published checkpoints; often black",
    )  # fmt: skip
    new = parser.add_argument_group("a new model")
    new.add_argument(
        "--encoder",
        help="image encoder: folder or hub id, or mm1-tiny or another model folder for its own; also where 360VL's "
        "stands apart",
    )
    new.add_argument(
        "--decoder",
        help="decoder: any that mlx-lm loads and that takes embeddings; or a GGUF file of a llama, qwen2 or qwen3",
    )
    new.add_argument(
        "--connector", choices=get_args(NewConnector), default="c_abstractor", help="fresh, to be trained"
    )
    new.add_argument(
        "--add-image-token", action="store_true",
        help="add a token that stands for a picture: --image-token, or <image>; the decoder gets a row for it",
    )  # fmt: skip
    new.add_argument(
        "--keep-connector", action="store_true",
        help="keep the connector, and the cutting of pictures, of the model folder that --encoder names",
    )  # fmt: skip
    new.add_argument("--num-visual-tokens", type=int, default=144, help="per view, a perfect square")
    new.add_argument("--feature-layer", type=int, help="hidden state of the encoder; the last by default")
    new.add_argument("--seed", type=int, default=0, help="of the fresh connector")
    stored = parser.add_argument_group("how weights are stored")
    stored.add_argument("--dtype", choices=DTYPES, help="by default as in the source")
    stored.add_argument("-q", "--quantize", action="store_true", help="pack the decoder's weights")
    stored.add_argument("--q-bits", type=int, choices=BITS, help="4, or what the mode has")
    stored.add_argument("--q-group-size", type=int, help="64, or what the mode has")
    stored.add_argument(
        "--q-mode", choices=get_args(PackingMode), default="affine", help="how numbers are packed"
    )
    stored.add_argument("--q-mixed", action="store_true", help="more bits for the head and the outer layers")
    stored.add_argument("--q-encoder", action="store_true", help="pack the image encoder too")
    stored.add_argument("--q-connector", action="store_true", help="pack the connector too")
    hub = parser.add_argument_group("Hugging Face hub")
    hub.add_argument("--upload-repo", metavar="ID", help="upload the result, with its card")
    hub.add_argument("--private", action="store_true", help="make that repository private")


def run_convert(args: argparse.Namespace) -> None:
    from mm1_mlx.checkpoint.quantize import Packing
    from mm1_mlx.checkpoint.upload import check_can_upload, check_repo_id, upload
    from mm1_mlx.errors import CheckpointError, UsageError

    from .conversion import convert
    from .recipe import Options

    if args.source is not None and args.hf_path is not None:
        raise UsageError(f"SOURCE {args.source} and --hf-path {args.hf_path} are the same flag; give one.")
    if args.upload_repo is not None:
        check_repo_id(args.upload_repo)
        check_can_upload()
    chosen = (args.q_bits, args.q_group_size) != (None, None) or args.q_mode != "affine"
    if not args.quantize and (chosen or args.q_mixed or args.q_encoder or args.q_connector):
        raise CheckpointError("the --q-… flags need -q.")
    packing = None
    if args.quantize:
        packing = Packing(
            args.q_bits,
            args.q_group_size,
            args.q_mode,
            mixed=args.q_mixed,
            encoder=args.q_encoder,
            connector=args.q_connector,
        )
    options = Options(
        encoder=args.encoder,
        decoder=args.decoder,
        tokenizer=args.tokenizer,
        image_token=args.image_token,
        add_image_token=args.add_image_token,
        alpha=args.alpha,
        connector=args.connector,
        num_visual_tokens=args.num_visual_tokens,
        feature_layer=args.feature_layer,
        seed=args.seed,
        keep_connector=args.keep_connector,
    )
    done = convert(
        args.source if args.hf_path is None else args.hf_path,
        args.output,
        kind=args.kind,
        options=options,
        dtype=args.dtype,
        packing=packing,
        overwrite=args.overwrite,
        name=args.upload_repo,
    )
    for note in done.notes:
        print(note, file=sys.stderr)
    print(f"{done.folder}: {done.plan.nbytes / 1e9:.3f} GB, {done.plan.bits_per_weight:.2f} bits per weight")
    if args.upload_repo is not None:
        print(upload(Path(args.output), args.upload_repo, private=args.private))


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="model folder to check")
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("--reference", metavar="FILE", help="safetensors of a reference run")
    against.add_argument(
        "--against-torch",
        dest="torch_source",
        metavar="SOURCE",
        help="run encoder and decoder of it in PyTorch",
    )
    against.add_argument(
        "--against", dest="original", metavar="DIR", help="model folder of the same model: KL and top-1"
    )
    parser.add_argument("--num-questions", type=int, default=64, help="of the tiny world, for --against")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="to compute in")


def run_check(args: argparse.Namespace) -> None:
    from .check import check, write_report

    report = check(
        args.folder,
        reference=args.reference,
        torch_source=args.torch_source,
        original=args.original,
        num_questions=args.num_questions,
        dtype=args.dtype,
    )
    print(report.table())
    if Path(args.folder).is_dir():  # the package's own model and the hub's cache stay as they are
        write_report(report, Path(args.folder))
    report.require_passed()


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="model folder to write back")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make, in PyTorch's layout")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")


def run_export(args: argparse.Namespace) -> None:
    from .export import export

    print(export(args.folder, args.output, overwrite=args.overwrite))


COMMANDS = {
    "check": ("Compare a model folder with a reference, stage by stage.", add_check_arguments, run_check),
    "export": ("Write a model folder back to its source's layout.", add_export_arguments, run_export),
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # half-written files are deleted, as with Ctrl-C
    if argv[:1] and argv[0] in COMMANDS and not Path(argv[0]).is_dir():
        return run_command(*COMMANDS[argv[0]], argv[1:], prog=f"{find_command_name()} {argv[0]}")
    return run_command(CONVERT, add_convert_arguments, run_convert, argv)


def script() -> None:
    """Run the console script and exit with its code."""
    exit_process(main())


if __name__ == "__main__":
    script()
