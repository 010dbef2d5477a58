"""What flags of mlx-lm and mlx-vlm are called here, for those who type them. ``--help`` imports this file."""

from __future__ import annotations

import argparse

OWN_NAMES = {  # flags of theirs that have another name here
    "--completion-only": "--train-on-prompt, the other way round: here only answers are learned unless it is given",
    "--dataset": "--data",
    "--dataset-path": "--data",
    "--eval-batches": "--val-batches",
    "--full-finetune": "--fine-tune-type full, or --train PART=full",
    "--generation-tokens": "--max-tokens",
    "--grad-clip": "--clip-norm",
    "--gradient-accumulation-steps": "--grad-accumulation-steps",
    "--gradient-checkpoint": "--grad-checkpoint",
    "--hf-repo": "--model",
    "--ignore-chat-template": "--template plain",
    "--image-resize-shape": "--image-size",
    "--images": "--image",
    "--learning-rate-schedule": "--schedule",
    "--lora-alpha": "--scale",
    "--lora-dropout": "--dropout",
    "--lora-keys": "--keys",
    "--lora-layers": "--num-layers",
    "--lora-rank": "--rank",
    "--lora-scale": "--scale",
    "--lr": "--learning-rate",
    "--lr-schedule": "--schedule, with --warmup and --final-rate",
    "--max-new-tokens": "--max-tokens",
    "--model-path": "--model",
    "--no-chat-template": "--template plain",
    "--num-iters": "--iters",
    "--num-trials": "--repeats",
    "--output-dir": "--output",
    "--output-path": "--adapter-path",
    "--resize-shape": "--image-size",
    "--resume-adapter-file": "--resume, which goes on from the newest checkpoint in --adapter-path",
    "--steps-per-save": "--save-every",
    "--system-prompt": "--system",
    "--train-mode": "--fine-tune-type",
    "--train-type": "--fine-tune-type",
    "--use-dora": "--fine-tune-type dora",
    "--val-steps": "--steps-per-eval",
    "--warmup-steps": "--warmup",
}
LACKING = {  # flags of theirs that have no counterpart, and why or what to do
    "--apply-chat-template": "the chat template is always applied to rows of chat.",
    "--audio": "MM1 reads pictures and text, no sound.",
    "--chat-template-config": "the model folder's chat_template.jinja is used as it is; change that.",
    "--draft-model": "there is no speculative decoding here.",
    "--eos-tokens": "--stop ends an answer at a text; the model folder's generation_config.json says at which tokens.",
    "--epochs": "a run is measured in updates: --iters.",
    "--export-gguf": "there is no GGUF of this architecture; python -m mm1_mlx.convert export writes PyTorch's layout.",
    "--extra-eos-token": "--stop ends an answer at a text; the model folder's generation_config.json says at which tokens.",
    "--force-download": "delete the model from the hub's cache to download it again.",
    "--gguf-path": "there is no GGUF of this architecture.",
    "--kv-group-size": "--kv-bits packs the KV cache in groups that fit the model.",
    "--logit-bias": "--temp, --top-p, --min-p and --top-k choose the tokens here.",
    "--mask-prompt": "only the assistant's turns are learned, as with it; --train-on-prompt learns all.",
    "--max-frames": "MM1 reads pictures, no video.",
    "--min-tokens-to-keep": "--temp, --top-p, --min-p and --top-k choose the tokens here.",
    "--num-draft-tokens": "there is no speculative decoding here.",
    "--optimizer-config": "--weight-decay is the one setting of optimizers here.",
    "--prefill-response": "there is none here; --template plain goes on with any text.",
    "--presence-penalty": "--temp, --top-p, --min-p and --top-k choose the tokens here.",
    "--processor-kwargs": "--image-size and --sub-images change how pictures are read.",
    "--quant-predicate": "--q-mixed gives the head and the outer layers more bits.",
    "--quantized-kv-start": "--kv-bits packs the KV cache from the first token on.",
    "--repetition-context-size": "--temp, --top-p, --min-p and --top-k choose the tokens here.",
    "--repetition-penalty": "--temp, --top-p, --min-p and --top-k choose the tokens here.",
    "--revision": "give the folder of that revision, which `hf download ID --revision …` makes.",
    "--skip-special-tokens": "special tokens are never part of an answer.",
    "--test-batches": "--test measures all test rows.",
    "--train-on-completions": "only the assistant's turns are learned, as with it; --train-on-prompt learns all.",
    "--train-vision": "--train encoder connector decoder says which parts learn.",
    "--trust-remote-code": "nothing from a checkpoint is executed here.",
    "--use-default-chat-template": "the model folder's chat_template.jinja is used.",
    "--video": "MM1 reads pictures, no video.",
    "--xtc-probability": "--temp, --top-p, --min-p and --top-k choose the tokens here.",
    "--xtc-threshold": "--temp, --top-p, --min-p and --top-k choose the tokens here.",
}


def find_own_name(flag: str) -> str | None:
    """Return in words what a flag of mlx-lm or mlx-vlm is here, or None for a word that neither has."""
    if own := OWN_NAMES.get(flag):
        return f"{flag} is {own} here."
    return f"{flag} is not here: {LACKING[flag]}" if flag in LACKING else None


def explain_foreign_flag(parser: argparse.ArgumentParser, argv: list[str]) -> str | None:
    """Return in words what the first flag of mlx-lm or mlx-vlm among words is here, or None if there is none.

    A flag that the parser has is its own. One whose counterpart this command lacks is left to the parser.
    """
    own = list_flags(parser)
    for word in argv:
        flag = word.partition("=")[0].replace("_", "-")
        if word == "--":
            break
        counterpart = OWN_NAMES.get(flag, "").partition(" ")[0].rstrip(",")
        if flag not in own and (flag in LACKING or counterpart in own):
            return find_own_name(flag)
    return None


def list_flags(parser: argparse.ArgumentParser) -> set[str]:
    """Return all flags of a parser and of its subcommands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= list_flags(inner)
    return found
