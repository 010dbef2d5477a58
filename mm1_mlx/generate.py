"""Answer a prompt about one or more pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from mm1_mlx.command import exit_process, peak_resident_memory, read_stdin, run_command
from mm1_mlx.errors import PromptError
from mm1_mlx.settings import (
    DTYPES,
    EMBEDDED_MODEL,
    MAX_PICTURE_PIXELS,
    MAX_TOKENS,
    PREFILL_STEP_SIZE,
    Sampling,
)

if TYPE_CHECKING:
    from mm1_mlx.inputs.few_shot import FewShotPrompt

TINY_NOTICE = (
    "mm1-tiny knows only the tiny world: plain pictures of one to five coloured shapes, letters and digits. "
    "For a real model give --model a folder or hub id."
)

SUB_IMAGES = ("none", "static", "dynamic", "quadrants", "anyres")

PHASES = {
    "imports": "Imports",
    "load": "Load",
    "preprocess": "Preprocess",
    "encoder": "Encoder",
    "connector": "Connector",
    "prefill": "Prefill",
    "first_token": "Time to first token",
    "decode": "Decode",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="model folder or hub id")
    parser.add_argument(
        "--image", nargs="+", action="extend", default=[], metavar="PICTURE",
        help="pictures in reading order: paths, data: URLs, or - for stdin; may be repeated",
    )  # fmt: skip
    parser.add_argument("--prompt", required=True, help="text, <image> where a picture goes; - reads stdin")
    parser.add_argument("--system", help="system message")
    large = parser.add_argument_group("large pictures")
    large.add_argument(
        "--sub-images", choices=SUB_IMAGES, help="how they are cut; by default the model's way"
    )
    large.add_argument(
        "--image-size", type=int, help="pixels, each side, of a view; positions are interpolated"
    )
    large.add_argument("--min-sub-images", type=int, help="fewest crops of one picture, for dynamic")
    large.add_argument("--max-sub-images", type=int, help="most crops of one picture")
    few = parser.add_argument_group("worked examples")
    few.add_argument("--shots", metavar="FILE", help="JSON lines: image, and caption or question and answer")
    few.add_argument("--num-shots", type=int, default=4, help="how many of them")
    few.add_argument("--shot-seed", type=int, help="of the choice; by default the first ones")
    few.add_argument(
        "--low-resolution-shots", action="store_true", help="one view for each example, so that more fit"
    )
    parser.add_argument(
        "--template", choices=("chat", "plain"), default="chat",
        help="the model's chat template, or the prompt as it stands",
    )  # fmt: skip
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
    parser.add_argument("--max-kv-size", type=int, help="positions kept in the KV cache")
    parser.add_argument("--kv-bits", type=int, help="bits of the KV cache: 2, 3, 4, 5, 6 or 8")
    parser.add_argument(
        "--prefill-step-size", type=int, default=PREFILL_STEP_SIZE, help="prompt tokens at once"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights; by default as stored, but float32 on a CPU"
    )
    parser.add_argument(
        "--max-image-pixels", type=int, default=MAX_PICTURE_PIXELS, help="refuse larger pictures"
    )
    parser.add_argument("--verbose", action="store_true", help="print the time of every phase")
    parser.add_argument("--json", action="store_true", help="print one JSON object: answer and numbers")


def run(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    from mm1_mlx.checkpoint import load
    from mm1_mlx.generation import stream_generate
    from mm1_mlx.inputs.few_shot import STOP

    sampling = Sampling(args.temp, args.top_p, args.min_p, args.top_k, args.seed)
    imported = time.perf_counter()
    if [args.prompt, *args.image].count("-") > 1:
        raise PromptError("stdin can be read once: one - among --prompt and --image.")
    if args.max_image_pixels < 1:
        raise PromptError(f"--max-image-pixels is {args.max_image_pixels}, expected at least 1.")
    prompt = read_stdin() if args.prompt == "-" else args.prompt
    model, processor = load(args.model, dtype=args.dtype)
    loaded = time.perf_counter()
    processor.max_pixels = args.max_image_pixels
    names = ("sub_images", "image_size", "min_sub_images", "max_sub_images")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if changes:
        processor = processor.with_image_config(**changes)
    few = _few_shot(args, prompt) if args.shots else None
    pieces = []
    for piece in stream_generate(
        model,
        processor,
        few.text if few else prompt,
        images=few.images if few else args.image,
        system=args.system,
        template="plain" if few else args.template,
        max_tokens=args.max_tokens,
        sampling=sampling,
        max_kv_size=args.max_kv_size,
        kv_bits=args.kv_bits,
        prefill_step_size=args.prefill_step_size,
        stop=STOP[few.kind] if few else (),
        num_low_resolution=few.num_low_resolution if few and args.low_resolution_shots else 0,
    ):
        if not pieces and args.model == EMBEDDED_MODEL:
            print(TINY_NOTICE, file=sys.stderr)
        pieces.append(piece.text)
        if not args.json:
            print(piece.text, end="", flush=True)
    timing = piece.timing
    numbers = {"imports": imported - start, "load": loaded - imported} | timing.to_dict()
    numbers["resident_memory"] = peak_resident_memory()
    if args.json:
        answer = {"text": "".join(pieces), "finish_reason": piece.finish_reason, "model": args.model}
        print(json.dumps(answer | numbers))
        return
    print(flush=True)
    print(f"Prompt: {timing.prompt_tokens} tokens, {timing.prompt_rate:.3f} tokens-per-sec", file=sys.stderr)
    print(
        f"Generation: {timing.generation_tokens} tokens, {timing.generation_rate:.3f} tokens-per-sec",
        file=sys.stderr,
    )
    print(f"Peak memory: {timing.peak_memory / 1e9:.3f} GB", file=sys.stderr)
    if args.verbose:
        print(f"Resident memory of the process: {numbers['resident_memory'] / 1e9:.3f} GB", file=sys.stderr)
        print(f"Visual tokens: {timing.visual_tokens}", file=sys.stderr)
        for name, label in PHASES.items():
            print(f"{label}: {numbers[name] * 1000:.1f} ms", file=sys.stderr)


def _few_shot(args: argparse.Namespace, question: str) -> FewShotPrompt:
    """The prompt of worked examples and the query, of which there is at most one picture."""
    from mm1_mlx.inputs.few_shot import CAPTION, Shot, choose_shots, few_shot, read_shots

    if len(args.image) > 1:
        raise PromptError(f"{len(args.image)} --image were given; with --shots the question is about one.")
    shots = choose_shots(read_shots(args.shots), args.num_shots, args.shot_seed)
    captions = bool(shots) and shots[0].caption is not None
    if captions and question.strip() != CAPTION:
        raise PromptError(f"the shots are captions; ask for one with --prompt {CAPTION!r}.")
    query = Shot(image=args.image[0] if args.image else None, question=None if captions else question)
    return few_shot(shots, query)


def main(argv: list[str] | None = None) -> int:
    return run_command(__doc__, add_arguments, run, argv)


def script() -> None:
    """The console script."""
    exit_process(main())


if __name__ == "__main__":
    script()
