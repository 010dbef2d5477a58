"""Answer a prompt about one or more pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mm1_mlx import flags
from mm1_mlx.command import entry_points, number_of, peak_resident_memory, put_in_words, read_stdin, say
from mm1_mlx.errors import MM1Error, PromptError, UsageError
from mm1_mlx.settings import BATCH_SIZE, EMBEDDED_MODEL, Template

if TYPE_CHECKING:
    from mm1_mlx.generation import Answer, Request, Timing
    from mm1_mlx.generation.batch_file import AnswerFile
    from mm1_mlx.generation.prefix import Prefix
    from mm1_mlx.inputs.few_shot import Shot
    from mm1_mlx.inputs.inputs import Inputs
    from mm1_mlx.inputs.picture import Source
    from mm1_mlx.inputs.processor import Processor
    from mm1_mlx.model.mm1 import MM1

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

ANSWERS_DEPEND_ON = (  # flags; --resume does not use an answer that was made with other values
    "model",
    "adapters",
    "dtype",
    "template",
    "max_tokens",
    "temp",
    "top_p",
    "min_p",
    "top_k",
    "seed",
    "stop",
    "shots",
    "num_shots",
    "shot_seed",
    "low_resolution_shots",
)

COUNTS = {
    "prompt_tokens": "prompt tokens",
    "prefilled_tokens": "read",
    "visual_tokens": "visual tokens",
    "encoded_views": "views encoded",
    "generation_tokens": "tokens written",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument(
        "--image", nargs="+", action="extend", default=[], metavar="PICTURE",
        help="pictures in reading order: paths, data: or file: URLs, or - for stdin; may be repeated",
    )  # fmt: skip
    flags.add_fetch(parser)
    parser.add_argument(
        "--prompt", help="text, <image> where a picture goes, \\<image> for the word; - reads stdin"
    )
    parser.add_argument("--system", help="system message")
    parser.add_argument(
        "--template", choices=get_args(Template), default="chat",
        help="chat puts the prompt into the model's chat template; plain reads it as it stands, for a model to go on "
        "with; in both, control tokens that stand in the prompt are words",
    )  # fmt: skip
    flags.add_sampling(parser)
    flags.add_large_pictures(parser)
    flags.add_shots(parser)
    parser.add_argument(
        "--low-resolution-shots", action="store_true", help="one view for each example, so that more fit"
    )
    many = parser.add_argument_group("many prompts")
    many.add_argument(
        "--batch",
        metavar="FILE",
        help="JSON lines: prompt, image or images, system; id and other keys of yours go to the answer",
    )
    many.add_argument("--output", metavar="FILE", help="where the answers go, JSON lines in the same order")
    many.add_argument("--resume", action="store_true", help="skip what the output has already")
    many.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="answers written together")
    flags.add_memory(parser)
    parser.add_argument(
        "--max-kv-size", type=int, help="positions kept in the KV cache; the oldest is overwritten"
    )
    parser.add_argument("--save-prompt-cache", metavar="FILE", help="keep the read prompt for later runs")
    parser.add_argument(
        "--prompt-cache-file", metavar="FILE", help="a kept prompt: what this one shares with it is not read"
    )
    parser.add_argument("--verbose", action="store_true", help="print what each picture and phase costs")
    parser.add_argument("--json", action="store_true", help="print one JSON object: answer and numbers")


def run(args: argparse.Namespace) -> None:
    _check_flags(args)
    if args.batch:
        _answer_file(args)
    else:
        _answer_one(args)


def _answer_one(args: argparse.Namespace) -> None:
    """Stream the answer to stdout, then print its costs to stderr; or print both as one JSON object."""
    start = time.perf_counter()
    from mm1_mlx.generation import stream_generate

    sampling = flags.sampling_of(args)
    imported = time.perf_counter()
    prompt, shots = _prompt_of(args) or "", flags.shots_of(args)
    model, processor = flags.load_model(args)
    loaded = time.perf_counter()
    prefix = _prefix_of(args, model)
    request = _make_request(args, prompt, args.image, args.system, shots)
    inputs = request.prepare(processor)
    preprocessed = time.perf_counter()
    _check_inputs(args, inputs, prefix, shots)
    _print_costs(args, processor, inputs, request.num_low_resolution)
    pieces = []
    answer = stream_generate(
        model,
        processor,
        inputs,
        max_tokens=args.max_tokens,
        sampling=sampling,
        max_kv_size=args.max_kv_size,
        kv_bits=args.kv_bits if prefix is None else None,
        prefill_step_size=args.prefill_step_size,
        vision_batch_size=args.vision_batch_size,
        vision_cache=flags.vision_cache_of(args),
        prefix=prefix,
        stop=request.stop,
    )
    try:
        for piece in answer:
            if not pieces and args.model == EMBEDDED_MODEL:
                print(flags.TINY_NOTICE, file=sys.stderr)
            pieces.append(piece)
            if not args.json:
                print(piece.text, end="", flush=True)
    except MM1Error:
        if pieces and not args.json:
            print(flush=True)
        raise
    if not args.json:
        print(flush=True)  # what goes to stderr begins a line of its own
    if args.save_prompt_cache and prefix is not None:
        prefix.save(Path(args.save_prompt_cache).expanduser())
    last = pieces[-1]
    timing = last.timing
    timing.preprocess += preprocessed - loaded
    timing.first_token += preprocessed - loaded
    numbers = {"imports": imported - start, "load": loaded - imported} | timing.to_dict()
    numbers["resident_memory"] = peak_resident_memory()
    text = "".join(piece.text for piece in pieces)
    if args.json:
        found = {"text": text, "finish_reason": last.finish_reason, "model": args.model}
        print(json.dumps(found | _short_answer(text, shots) | numbers))
        return
    _print_numbers(args, timing, numbers)


def _check_inputs(args: argparse.Namespace, inputs: Inputs, prefix: Prefix | None, shots: list[Shot]) -> None:
    """Refuse a kept prompt that this one does not begin with, and a bound of the KV cache that would lose shots.

    Raises:
        PromptError: this prompt cannot use the kept one.
        SamplingError: worked examples, or the question, would be overwritten before the answer ends.
    """
    from mm1_mlx.generation.caches import require_kept

    if args.prompt_cache_file and prefix is not None:
        prefix.require_start_of(inputs)
    if shots and args.max_kv_size is not None:
        num_prompt = len(inputs.input_ids)
        require_kept(args.max_kv_size, num_prompt, args.max_tokens, [range(num_prompt)], what="shots")


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that exclude each other or lack another one.

    Raises:
        UsageError: the message names the flags.
    """
    if args.prompt is None and not args.batch:
        raise UsageError("there is nothing to answer; give --prompt TEXT, or --batch FILE.")
    if [args.prompt, *args.image].count("-") > 1:
        raise UsageError("stdin can be read once: one - among --prompt and --image.")
    if args.batch and not args.output:
        raise UsageError("--batch needs --output FILE for the answers.")
    if not args.batch and (args.output or args.resume):
        raise UsageError("--output and --resume go with --batch FILE only.")
    not_in_batches = {
        "--image": (bool(args.image), "pictures stand in the rows"),
        "--kv-bits": (args.kv_bits is not None, "mlx-lm's batches have no packed KV cache"),
        "--max-kv-size": (args.max_kv_size is not None, "mlx-lm's batches keep all positions"),
        "--prompt-cache-file": (bool(args.prompt_cache_file), "shared starts are found by themselves"),
        "--save-prompt-cache": (bool(args.save_prompt_cache), "there are many prompts"),
    }
    for flag, (given, why) in not_in_batches.items():
        if args.batch and given:
            raise UsageError(f"{flag} does not go with --batch: {why}.")
    if args.max_kv_size is not None and (args.prompt_cache_file or args.save_prompt_cache):
        raise UsageError("--max-kv-size does not go with a saved prompt cache, which keeps all positions.")


def _prompt_of(args: argparse.Namespace) -> str | None:
    return read_stdin() if args.prompt == "-" else args.prompt


def _prefix_of(args: argparse.Namespace, model: MM1) -> Prefix | None:
    """Return the saved prompt cache, or an empty one to save this prompt in, or None if the flags ask for neither."""
    from mm1_mlx.generation.prefix import Prefix
    from mm1_mlx.generation.prompt_file import require_place

    if args.save_prompt_cache:
        require_place(Path(args.save_prompt_cache).expanduser())
    if args.prompt_cache_file:
        prefix = Prefix.load(Path(args.prompt_cache_file).expanduser(), model)
        if args.kv_bits not in (None, prefix.kv_bits):
            saved = "unpacked" if prefix.kv_bits is None else f"packed to {prefix.kv_bits} bits"
            raise UsageError(
                f"--kv-bits {args.kv_bits} does not go with {args.prompt_cache_file}, which was saved {saved}; leave it "
                "out, or save the prompt again with it."
            )
        return prefix
    return Prefix(model, kv_bits=args.kv_bits) if args.save_prompt_cache else None


def _make_request(
    args: argparse.Namespace, prompt: str, images: Sequence[Source], system: str | None, shots: list[Shot]
) -> Request:
    """Return the request for one prompt, alone or after the worked examples."""
    from mm1_mlx.generation import Request

    request = Request(prompt, images, system, args.template, args.stop)
    return request.behind(shots, low_resolution=args.low_resolution_shots) if args.shots else request


def _answer_file(args: argparse.Namespace) -> None:
    """Answer all prompts of a file, and write the answers to another file."""
    from tqdm import tqdm

    from mm1_mlx.generation import stream_batch
    from mm1_mlx.generation.batch_file import AnswerFile, read_rows

    sampling, prompt, shots = flags.sampling_of(args), _prompt_of(args), flags.shots_of(args)
    written = [*COUNTS, *(["answer"] if shots else [])]
    rows = read_rows(args.batch, prompt=prompt, system=args.system, written=written)
    asked = {row.line: _make_request(args, row.prompt, row.images, row.system, shots) for row in rows}
    model, processor = flags.load_model(args)
    settings = {name: getattr(args, name) for name in (*ANSWERS_DEPEND_ON, *flags.LARGE_PICTURES)}
    file = AnswerFile(Path(args.output).expanduser(), rows, settings, resume=args.resume)
    missing = file.missing
    if args.model == EMBEDDED_MODEL:
        print(flags.TINY_NOTICE, file=sys.stderr)
    totals, start = Counter(), time.perf_counter()
    with closing(file):
        with tqdm(total=len(rows), initial=len(rows) - len(missing), unit="answer", file=sys.stderr) as bar:
            for answer in stream_batch(
                model,
                processor,
                [asked[row.line] for row in missing],
                batch_size=args.batch_size,
                max_tokens=args.max_tokens,
                sampling=sampling,
                prefill_step_size=args.prefill_step_size,
                vision_batch_size=args.vision_batch_size,
                vision_cache=flags.vision_cache_of(args),
            ):
                counts = {name: getattr(answer.timing, name) for name in COUNTS}
                totals.update(counts | {"failed": answer.error is not None})
                file.add(missing[answer.number], _answer_values(answer, shots, counts))
                bar.update()
        file.finish()
    _print_totals(args, file, len(missing), totals, time.perf_counter() - start)
    if failed := totals["failed"]:
        raise PromptError(
            f"{failed} of {len(rows)} rows have no answer; {file.path} says why, --resume asks them again."
        )


def _answer_values(answer: Answer, shots: list[Shot], counts: dict[str, int]) -> dict[str, Any]:
    """Return the values to write for an answer, with an error in terms of the command's flags."""
    if answer.error is not None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return {"error": put_in_words(PromptError(answer.error), parser)}
    values = {"text": answer.text, "finish_reason": answer.finish_reason}
    return values | _short_answer(answer.text, shots) | counts


def _print_totals(
    args: argparse.Namespace, file: AnswerFile, num_asked: int, totals: Counter[str], seconds: float
) -> None:
    answered, counts = num_asked - totals["failed"], {name: totals[name] for name in COUNTS}
    if args.json:
        found = {"answers": answered, "errors": totals["failed"], "seconds": seconds}
        print(json.dumps(found | counts))
    details = ", ".join(f"{COUNTS[name]} {count:,}" for name, count in counts.items())
    say(f"{number_of(answered, 'answer')} in {seconds:.1f} s to {file.path}: {details}")


def _short_answer(text: str, shots: list[Shot]) -> dict[str, str]:
    """Return the answer without its rationale, if there are worked examples, or else nothing."""
    from mm1_mlx.inputs.few_shot import cut_at_stop

    return {"answer": cut_at_stop(text, shots[0].kind)} if shots else {}


def _print_costs(
    args: argparse.Namespace, processor: Processor, inputs: Inputs, num_low_resolution: int
) -> None:
    """Print how many visual tokens the pictures need, before anything is encoded."""
    if num_low_resolution:
        low = inputs.pictures[:num_low_resolution]
        num_images = len(inputs.pictures) - num_low_resolution
        cost = sum(picture.layout.num_visual_tokens for picture in low)
        full = sum(processor.num_visual_tokens(*p.picture.size, num_images=num_images) for p in low)
        print(
            f"Low-resolution shots: {cost:,} visual tokens in place of {full:,}, {full - cost:,} saved",
            file=sys.stderr,
        )
    if not args.verbose:
        return
    for number, picture in enumerate(inputs.pictures, 1):
        width, height = picture.picture.size
        print(
            f"Picture {number}: {width} x {height} pixels, {number_of(picture.num_views, 'view')}, "
            f"{picture.layout.num_visual_tokens:,} visual tokens",
            file=sys.stderr,
        )


def _print_numbers(args: argparse.Namespace, timing: Timing, numbers: dict[str, float]) -> None:
    print(f"Prompt: {timing.prompt_tokens} tokens, {timing.prompt_rate:.3f} tokens-per-sec", file=sys.stderr)
    if timing.prefilled_tokens < timing.prompt_tokens:
        known = timing.prompt_tokens - timing.prefilled_tokens
        print(f"Prompt cache: {known} of them were read before", file=sys.stderr)
    print(
        f"Generation: {timing.generation_tokens} tokens, {timing.generation_rate:.3f} tokens-per-sec",
        file=sys.stderr,
    )
    print(f"Peak memory: {timing.peak_memory / 1e9:.3f} GB", file=sys.stderr)
    if args.verbose:
        print(f"Resident memory of the process: {numbers['resident_memory'] / 1e9:.3f} GB", file=sys.stderr)
        print(f"Visual tokens: {timing.visual_tokens}", file=sys.stderr)
        print(f"Views encoded: {timing.encoded_views}", file=sys.stderr)
        for name, label in PHASES.items():
            print(f"{label}: {numbers[name] * 1000:.1f} ms", file=sys.stderr)


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()
