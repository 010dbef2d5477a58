"""Measure where the time goes, phase by phase: from a picture's file to the last token of an answer.

FLOP: two for each multiply-add of matrix products, attention and convolutions. GB moved: what every operation
reads and writes, weights included; views are free. Prompts are random ids, so no tokenizer is needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mm1_mlx.command import entry_points, number_of
from mm1_mlx.errors import ConfigError, PictureError
from mm1_mlx.image_config import SubImages
from mm1_mlx.presets import IMAGE_ENCODERS, preset
from mm1_mlx.settings import DTYPES, EMBEDDED_MODEL, MAX_PICTURE_PIXELS
from mm1_mlx.strict import LARGEST, SEEDS

if TYPE_CHECKING:
    from mm1_mlx.model.mm1 import MM1
    from mm1_mlx.sizing.measure import Limits, Measurement, Phase

LABELS = {
    "open": "open picture",
    "resize": "resize picture",
    "encoder": "image encoder",
    "connector": "connector",
    "embedding": "embedding",
    "prefill": "prefill",
    "first_token": "= first token",
    "decode": "decode",
}
HEADER = (
    f"{'phase':14} {'median':>10} {'fastest - slowest':>21} {'of first':>8} {'work':>9} {'rate':>9} "
    f"{'of':>6} {'moved':>8} {'rate':>8} {'of':>6} {'peak':>8}\n"
    f"{'':14} {'ms':>10} {'ms':>21} {'token %':>8} {'GFLOP':>9} {'GFLOP/s':>9} {'max %':>6} "
    f"{'GB':>8} {'GB/s':>8} {'max %':>6} {'GB':>8}"
)
LARGEST_SIDE = 65_500  # pixels; the most that JPEG allows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", default=EMBEDDED_MODEL, help="sizes by name, random weights")
    which.add_argument("--config", metavar="FILE", help="a model folder's config.json, random weights")
    which.add_argument("--model", help="model folder or hub id, its own weights")
    parser.add_argument("--encoder", metavar="NAME", help=f"in its place: {', '.join(IMAGE_ENCODERS)}")
    parser.add_argument("--encoder-layers", type=int, metavar="N", help="the image encoder's first N layers")
    parser.add_argument("--decoder-dims", type=int, metavar="D", help="a plain decoder of this width instead")
    parser.add_argument("--layers", type=int, metavar="N", help="the decoder's first N layers")
    parser.add_argument(
        "--sub-images", choices=get_args(SubImages), help="of each picture; by default the model's rule"
    )
    parser.add_argument(
        "--max-sub-images", type=int, help="most crops of one picture, for dynamic and anyres"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the weights; by default float32 on a CPU, else bfloat16, or as stored with --model",
    )
    parser.add_argument(
        "--picture-size", type=int, nargs=2, default=(1024, 768), metavar=("WIDTH", "HEIGHT"), help="pixels"
    )
    lists = {
        "--num-images": (1, "pictures in the prompt"),
        "--prompt-tokens": (32, "text tokens after the pictures"),
        "--max-tokens": (32, "tokens of the answer"),
        "--batch-size": (1, "views encoded together"),
    }
    for flag, (default, help) in lists.items():
        parser.add_argument(flag, type=int, nargs="+", default=[default], metavar="N", help=f"{help}; a list")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each case")
    parser.add_argument("--warmup", type=int, default=1, help="runs before, not measured")
    parser.add_argument("--seed", type=int, default=0, help="of weights, picture and prompt")
    parser.add_argument("--json", action="store_true", help="print one JSON object, every repeat in it")


def run(args: argparse.Namespace) -> None:
    check(args)
    import mlx.core as mx

    from mm1_mlx.sizing.measure import Case, Measurement, measure_limits

    mx.random.seed(args.seed)
    model = make_model(args)
    dtype = model.image_encoder.dtype
    lists = (args.num_images, args.prompt_tokens, args.max_tokens, args.batch_size)
    cases = [Case(*sizes, tuple(args.picture_size)) for sizes in itertools.product(*lists)]
    measurements = [
        Measurement(model, case, seed=args.seed) for case in cases
    ]  # made first, so that errors come before the work
    limits = measure_limits(dtype)
    for number, measurement in enumerate(measurements, 1):
        print(f"measuring case {number} of {len(cases)}", file=sys.stderr)
        measurement.repeat(args.repeats, warmup=args.warmup)
    about = {
        "model": args.model or args.config or args.preset,
        "encoder_layers": model.config.vision_config.num_feature_layers,
        "decoder_layers": len(model.layers),
        "dtype": str(dtype).rpartition(".")[2],
        "device": mx.default_device().type.name,
    }
    if args.json:
        found = [numbers(measurement, limits) for measurement in measurements]
        print(json.dumps(about | {"limits": vars(limits), "repeats": args.repeats, "cases": found}))
        return
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items()))
    print(
        f"limits measured here: {limits.flops_per_second / 1e9:.1f} GFLOP/s (matrices of "
        f"{limits.matmul_size}), {limits.bytes_per_second / 1e9:.1f} GB/s (read and write)"
    )
    for measurement in measurements:
        print("\n" + table(numbers(measurement, limits)))


def check(args: argparse.Namespace) -> None:
    """Refuse numbers out of range, and flags that exclude each other.

    Raises:
        MM1Error: a flag is wrong; the message names it.
    """
    least = {"num_images": 1, "prompt_tokens": 1, "max_tokens": 2, "batch_size": 1, "repeats": 1, "warmup": 0}
    least |= {"layers": 1, "encoder_layers": 1, "decoder_dims": 1, "seed": 0, "max_sub_images": 1}
    for name, smallest in least.items():
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            most = SEEDS if name == "seed" else LARGEST
            if value is not None and not smallest <= value < most:
                flag = "--" + name.replace("_", "-")
                below = "2^64" if name == "seed" else "2^31"
                raise ConfigError(f"{flag} is {value}, expected at least {smallest} and less than {below}.")
    width, height = args.picture_size
    if min(width, height) < 1 or max(width, height) > LARGEST_SIDE or width * height > MAX_PICTURE_PIXELS:
        raise PictureError(
            f"--picture-size is {width} x {height} pixels, expected sides of 1 to {LARGEST_SIDE:,} and "
            f"at most {MAX_PICTURE_PIXELS:,} pixels."
        )
    changes = ("encoder", "encoder_layers", "decoder_dims", "layers", "sub_images", "max_sub_images")
    given = ["--" + name.replace("_", "-") for name in changes if getattr(args, name) is not None]
    if args.model is not None and given:
        raise ConfigError(
            f"{given[0]} changes a model of random weights; in place of --model give its "
            "config.json: --config FILE."
        )


def make_model(args: argparse.Namespace) -> MM1:
    """Make or load the model that the flags ask for, with its weights in memory."""
    import mlx.core as mx

    from mm1_mlx.checkpoint.load import load, read_config
    from mm1_mlx.sizing.variant import Variant, make_random_model

    if args.model is not None:
        return load(args.model, dtype=args.dtype)[0]
    if args.config is not None:
        path = Path(args.config)
        config = read_config(path.parent if path.name == "config.json" else path)
    else:
        config = preset(args.preset)
    if config.quantization is not None:
        raise ConfigError(f"{args.config} is of a quantized model; measure its folder with --model.")
    variant = Variant(
        encoder=args.encoder,
        encoder_layers=args.encoder_layers,
        decoder_dims=args.decoder_dims,
        layers=args.layers,
        sub_images=args.sub_images,
        max_sub_images=args.max_sub_images,
    )
    dtype = args.dtype or ("float32" if mx.default_device() == mx.cpu else "bfloat16")
    return make_random_model(variant.of(config), getattr(mx, dtype))


def numbers(measurement: Measurement, limits: Limits) -> dict[str, Any]:
    """Return one case as plain numbers, each with its unit in its name."""
    phases = {name: _phase(phase, limits) for name, phase in measurement.phases.items()}
    return vars(measurement.case) | {
        "views": measurement.num_views,
        "visual_tokens": measurement.visual_tokens,
        "jpeg_bytes": len(measurement.jpeg),
        "phases": phases,
        "decode_tokens_per_second": (measurement.case.max_tokens - 1) / phases["decode"]["median_seconds"],
        "peak_memory_bytes": max(phase.peak_memory for phase in measurement.phases.values()),
    }


def _phase(phase: Phase, limits: Limits) -> dict[str, Any]:
    """Return one phase as plain numbers, with shares of the machine's measured limits if MLX computes the phase."""
    median = statistics.median(phase.seconds)
    found = {"seconds": phase.seconds, "median_seconds": median}
    found |= {"min_seconds": min(phase.seconds), "max_seconds": max(phase.seconds)}
    found["peak_memory_bytes"] = phase.peak_memory
    for unit in ("flops", "bytes") if phase.work else ():
        work = getattr(phase.work, unit)
        found |= {unit: work, f"{unit}_per_second": work / median}
        found[f"{unit}_share"] = work / median / getattr(limits, f"{unit}_per_second")
    return found


def table(case: dict[str, Any]) -> str:
    """Return one case as a table for people to read."""
    pictures, seen = number_of(case["num_images"], "picture"), number_of(case["views"], "view")
    lines = [
        f"{pictures} of {case['picture_size'][0]} x {case['picture_size'][1]} pixels "
        f"({case['jpeg_bytes'] / 1e6:.2f} MB of JPEG each), {seen}, {case['batch_size']} at a time, "
        f"{case['visual_tokens']} visual and {case['prompt_tokens']} text tokens, "
        f"answer of {case['max_tokens']} tokens",
        HEADER,
    ]
    phases = case["phases"]
    whole = phases["first_token"]["median_seconds"]
    for name, label in LABELS.items():
        phase = phases[name]
        spread = f"{1e3 * phase['min_seconds']:.2f} - {1e3 * phase['max_seconds']:.2f}"
        share = "" if name == "decode" else f"{100 * phase['median_seconds'] / whole:.1f}"
        line = f"{label:14} {1e3 * phase['median_seconds']:10.2f} {spread:>21} {share:>8}"
        for unit, width in (("flops", 9), ("bytes", 8)) if "flops" in phase else ():
            work, rate, reached = phase[unit], phase[f"{unit}_per_second"], phase[f"{unit}_share"]
            line += f" {work / 1e9:{width}.3f} {rate / 1e9:{width}.2f} {100 * reached:6.1f}"
        if "flops" in phase:
            line += f" {phase['peak_memory_bytes'] / 1e9:8.3f}"
        lines.append(line)
    lines.append(f"decode: {case['decode_tokens_per_second']:.2f} tokens/s")
    lines.append(f"peak memory: {case['peak_memory_bytes'] / 1e9:.3f} GB")
    return "\n".join(lines)


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()
