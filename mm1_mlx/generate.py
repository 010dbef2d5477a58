"""Answer a prompt about one or more pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from mm1_mlx import flags
from mm1_mlx.command import exit_process, peak_resident_memory, read_stdin, run_command
from mm1_mlx.errors import PromptError
from mm1_mlx.settings import EMBEDDED_MODEL

if TYPE_CHECKING:
    from mm1_mlx.inputs.few_shot import FewShotPrompt

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
    flags.add_model(parser)
    parser.add_argument(
        "--image", nargs="+", action="extend", default=[], metavar="PICTURE",
        help="pictures in reading order: paths, data: URLs, or - for stdin; may be repeated",
    )  # fmt: skip
    parser.add_argument("--prompt", required=True, help="text, <image> where a picture goes; - reads stdin")
    parser.add_argument("--system", help="system message")
    parser.add_argument(
        "--template", choices=("chat", "plain"), default="chat",
        help="the model's chat template, or the prompt as it stands",
    )  # fmt: skip
    flags.add_sampling(parser)
    flags.add_large_pictures(parser)
    few = parser.add_argument_group("worked examples")
    few.add_argument("--shots", metavar="FILE", help="JSON lines: image, and caption or question and answer")
    few.add_argument("--num-shots", type=int, default=4, help="how many of them")
    few.add_argument("--shot-seed", type=int, help="of the choice; by default the first ones")
    few.add_argument(
        "--low-resolution-shots", action="store_true", help="one view for each example, so that more fit"
    )
    flags.add_memory(parser)
    parser.add_argument("--max-kv-size", type=int, help="positions kept in the KV cache")
    parser.add_argument("--verbose", action="store_true", help="print the time of every phase")
    parser.add_argument("--json", action="store_true", help="print one JSON object: answer and numbers")


def run(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    from mm1_mlx.generation import stream_generate
    from mm1_mlx.inputs.few_shot import STOP

    sampling = flags.sampling_of(args)
    imported = time.perf_counter()
    if [args.prompt, *args.image].count("-") > 1:
        raise PromptError("stdin can be read once: one - among --prompt and --image.")
    prompt = read_stdin() if args.prompt == "-" else args.prompt
    model, processor = flags.load_model(args)
    loaded = time.perf_counter()
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
            print(flags.TINY_NOTICE, file=sys.stderr)
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
