"""The tiny world's own tokenizer: byte-level BPE, so every text has tokens and its words have one each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from mm1_mlx.tiny.questions import KINDS, make_question
from mm1_mlx.tiny.world import make_scene

SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<image>", "<|system|>", "<|user|>", "<|assistant|>")
PAD_ID, BEGIN_ID, END_ID, IMAGE_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID = range(len(SPECIAL_TOKENS))
VOCAB_SIZE = 768

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message.role + '|>' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{{- '<image>' if part.type == 'image' else part.text -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def write_tiny_world_texts(num_scenes: int) -> Iterable[str]:
    """Yield questions and answers from which the vocabulary is learned."""
    for seed in range(num_scenes):
        scene, rng = make_scene(seed), random.Random(seed)
        for kind in (*KINDS, "caption", "detail"):
            question = make_question(scene, kind, rng)
            if question is not None:
                yield question.text
                yield question.answer


def train_tokenizer(folder: Path, num_scenes: int = 6000) -> None:
    """Write mm1-tiny's tokenizer into ``folder``."""
    write_tokenizer(folder, write_tiny_world_texts(num_scenes), vocab_size=VOCAB_SIZE)


def write_tokenizer(folder: Path, texts: Iterable[str], *, vocab_size: int) -> None:
    """Write ``tokenizer.json``, its configuration, chat template and generation settings into ``folder``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": ["<image>", "<|system|>", "<|user|>", "<|assistant|>"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    ids = {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID, "pad_token_id": PAD_ID}
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")
