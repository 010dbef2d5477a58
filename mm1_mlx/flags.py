"""Flags that several commands share, and their values. ``--help`` imports this file, so it imports nothing slow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mm1_mlx.errors import PictureError, PromptError, SamplingError, UsageError
from mm1_mlx.image_config import SubImages
from mm1_mlx.settings import (
    DTYPES,
    EMBEDDED_MODEL,
    MAX_PICTURE_PIXELS,
    MAX_TOKENS,
    PREFILL_STEP_SIZE,
    VISION_CACHE_MB,
    Sampling,
)

if TYPE_CHECKING:
    from mm1_mlx.inputs.few_shot import Shot
    from mm1_mlx.inputs.processor import Processor
    from mm1_mlx.inputs.sources import Fetch
    from mm1_mlx.model.mm1 import MM1
    from mm1_mlx.vision.cache import VisionCache

LARGE_PICTURES = ("sub_images", "image_size", "min_sub_images", "max_sub_images")

TINY_NOTICE = (
    "mm1-tiny knows only the tiny world: plain pictures of one to five coloured shapes, letters and digits. "
    "For a real model give --model a folder or hub id."
)


def add_model(parser: argparse.ArgumentParser, *, adapters: bool = True) -> None:
    """Add ``--model``, the type of its weights and, unless the command has another ``--adapter-path``, its adapters."""
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="model folder or hub id")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights; by default as stored, but float32 on a CPU"
    )
    if adapters:
        parser.add_argument(
            "--adapter-path", dest="adapters", action="append", default=[], metavar="DIR[=WEIGHT]",
            help="adapter folder, and how often its changes count; may be repeated, to combine adapters",
        )  # fmt: skip


def add_large_pictures(parser: argparse.ArgumentParser) -> None:
    """Add the flags for how a large picture is cut into views."""
    large = parser.add_argument_group("large pictures")
    large.add_argument(
        "--sub-images", choices=get_args(SubImages), help="how they are cut; by default the model's way"
    )
    large.add_argument(
        "--image-size", type=int, help="pixels, each side, of a view; positions are interpolated"
    )
    large.add_argument("--min-sub-images", type=int, help="fewest crops of one picture, for dynamic")
    large.add_argument("--max-sub-images", type=int, help="most crops of one picture")
    large.add_argument(
        "--max-image-pixels", type=int, default=MAX_PICTURE_PIXELS, help="refuse larger pictures"
    )


def add_fetch(parser: argparse.ArgumentParser) -> None:
    """Add the flag without which no picture is downloaded."""
    parser.add_argument(
        "--allow-fetch", action="store_true",
        help="download pictures given as http:// or https:// addresses, from the public internet alone",
    )  # fmt: skip


def fetch_of(args: argparse.Namespace) -> Fetch:
    """Return the function that downloads pictures, or one that refuses to and names the flag."""
    if args.allow_fetch:
        from mm1_mlx.inputs.fetching import Fetcher

        return Fetcher()

    def refuse(url: str) -> bytes:
        raise PictureError(
            f"{url} is a web address; add --allow-fetch, or download the picture and give its path."
        )

    return refuse


def add_shots(parser: argparse.ArgumentParser) -> None:
    """Add the flags for worked examples before the question."""
    few = parser.add_argument_group("worked examples")
    few.add_argument(
        "--shots", metavar="FILE", help="JSON lines: image, and caption, or question, (rationale,) answer"
    )
    few.add_argument("--num-shots", type=int, default=4, help="how many of them")
    few.add_argument("--shot-seed", type=int, help="of the choice; by default the first ones")


def shots_of(args: argparse.Namespace) -> list[Shot]:
    """Return the chosen worked examples, or none without ``--shots``.

    Raises:
        PromptError: the file is wrong, or holds too few examples.
    """
    if not args.shots:
        return []
    from mm1_mlx.inputs.few_shot import choose_shots, read_shots

    return choose_shots(read_shots(args.shots), args.num_shots, args.shot_seed)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the flags for how tokens are chosen, and where an answer ends."""
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="longest answer, in tokens")
    parser.add_argument(
        "--temp", "--temperature", type=float, default=Sampling.temp, help="0 takes the likeliest token"
    )
    parser.add_argument("--top-p", type=float, default=Sampling.top_p, help="nucleus sampling")
    parser.add_argument(
        "--min-p", type=float, default=Sampling.min_p, help="least share of the likeliest token's probability"
    )
    parser.add_argument(
        "--top-k", type=int, default=Sampling.top_k, help="sample from the k likeliest; 0 is off"
    )
    parser.add_argument("--seed", type=int, help="of the sampling")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT",
        help="end the answer before this text ($'\\n' is a new line in most shells); may be repeated",
    )  # fmt: skip


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add the flags for memory: the bits of the KV cache, and those of ``add_reading``."""
    memory = parser.add_argument_group("memory")
    memory.add_argument("--kv-bits", type=int, help="bits of the KV cache: 2, 3, 4, 5, 6 or 8")
    _add_reading(memory)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the flags for how much of a prompt is read at once, and for which visual tokens are kept."""
    _add_reading(parser.add_argument_group("memory"))


def _add_reading(memory: argparse._ArgumentGroup) -> None:
    memory.add_argument(
        "--prefill-step-size", type=int, default=PREFILL_STEP_SIZE, help="prompt tokens at once"
    )
    memory.add_argument(
        "--vision-batch-size", type=int, metavar="N",
        help="views encoded together; by default what fits a quarter of the free memory, 16 at most",
    )  # fmt: skip
    memory.add_argument(
        "--vision-cache-size", type=float, default=VISION_CACHE_MB, metavar="MB",
        help="visual tokens kept of pictures seen before; 0 keeps none",
    )  # fmt: skip
    memory.add_argument("--vision-cache", metavar="DIR", help="keep them in this folder for later runs too")


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Return the settings of how tokens are chosen."""
    return Sampling(args.temp, args.top_p, args.min_p, args.top_k, args.seed)


def adapters_of(args: argparse.Namespace) -> dict[str | Path, float]:
    """Return adapter folders and their weights, or none for a command without adapters.

    Raises:
        UsageError: a folder is given twice.
    """
    found: dict[str | Path, float] = {}
    for word in getattr(args, "adapters", []):
        folder, _, weight = word.rpartition("=")
        try:
            folder, weight = (folder, float(weight)) if folder else (word, 1.0)
        except ValueError:  # the = is part of the name
            folder, weight = word, 1.0
        folder = str(Path(folder).expanduser())
        if folder in found:
            raise UsageError(f"--adapter-path {folder} is given twice; give it one weight.")
        found[folder] = weight
    return found


def load_model(args: argparse.Namespace, *, sizes_alone: bool = False) -> tuple[MM1, Processor]:
    """Load the model, and its processor with the settings of the flags for large pictures.

    Args:
        args: the parsed flags.
        sizes_alone: read no weights, which need not even exist, since nothing will be computed.

    Raises:
        MM1Error: the folder or a flag is not usable.
    """
    from mm1_mlx.checkpoint.load import load
    from mm1_mlx.checkpoint.skeleton import skeleton

    if args.max_image_pixels < 1:
        raise PromptError(f"--max-image-pixels is {args.max_image_pixels}, expected at least 1.")
    if sizes_alone:
        model, processor = skeleton(args.model, dtype=args.dtype)
    else:
        model, processor = load(args.model, adapter_path=adapters_of(args), dtype=args.dtype)
    processor.max_pixels = args.max_image_pixels
    if hasattr(args, "allow_fetch"):
        processor.fetch = fetch_of(args)
    changes = image_changes(args)
    return model, processor.with_image_config(**changes) if changes else processor


def image_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of ``ImageConfig`` that the flags for large pictures change, by name."""
    return {name: value for name in LARGE_PICTURES if (value := getattr(args, name)) is not None}


def vision_cache_of(args: argparse.Namespace) -> VisionCache:
    """Return the cache of visual tokens that the flags ask for.

    Raises:
        SamplingError: the size is out of range, or the folder cannot be made.
    """
    from mm1_mlx.vision.cache import VisionCache

    if not 0 <= args.vision_cache_size < float("inf"):
        raise SamplingError(f"--vision-cache-size is {args.vision_cache_size}, expected 0 MB or more.")
    folder = None if args.vision_cache is None else Path(args.vision_cache).expanduser()
    try:
        return VisionCache(int(args.vision_cache_size * 1e6), folder)
    except OSError as error:
        raise SamplingError(
            f"--vision-cache {folder} cannot be made: {error.strerror}; give a folder."
        ) from None
