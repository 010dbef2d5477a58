"""Write the tokenizer of a GGUF file as the files that transformers reads, and what else a model folder takes along."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from mm1_mlx.checkpoint.card import LICENSE_KEYS
from mm1_mlx.checkpoint.chat_template import FILE
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_files import write_json

from .gguf_file import GgufFile

KEY = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens
ROLES = {  # transformers' names of tokens by llama.cpp's
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
}
SPACE = "\u2581"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {  # how text is cut before its bytes are merged; None is GPT-2's own way
    "gpt-2": None,
    "smollm": None,  # after each digit has been set apart
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "falcon3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "tekken": TEKKEN,
}
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")  # are not merged


def make_companions(file: GgufFile) -> Path:
    """Return a new folder with all that a GGUF file says beside its weights, as publishers store it.

    The folder is deleted when ``file`` is forgotten.

    Raises:
        CheckpointError: the file has no tokenizer, or one that is not known here.
    """
    folder = Path(tempfile.mkdtemp(prefix="mm1-gguf-"))
    weakref.finalize(file, shutil.rmtree, folder, ignore_errors=True)
    if f"{KEY}model" in file.metadata:
        write_tokenizer(file, folder)
    stated = {key: file.metadata.get(f"general.{key.replace('_', '.')}") for key in LICENSE_KEYS}
    front = {key: value for key, value in stated.items() if isinstance(value, str)}
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in front.items())
    (folder / "README.md").write_text(f"---\n{lines}---\n", encoding="utf-8")
    return folder


def write_tokenizer(file: GgufFile, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, the chat template and the tokens that end an answer.

    Raises:
        CheckpointError: the file has no tokenizer, or one that is not known here.
    """
    tokens = file.need_list(f"{KEY}tokens", str)
    kinds = [NORMAL] * len(tokens)
    if f"{KEY}token_type" in file.metadata:
        kinds = file.need_list(f"{KEY}token_type", int, len(tokens))
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{file.path}: its {len(tokens)} tokens are not each given once.")
    special = {name: _find_token(file, tokens, f"{name}_token_id") for name in ROLES}
    tokenizer = _build_tokenizer(file, tokens, kinds, special)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {ROLES[name]: token for name, token in special.items() if token is not None}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", settings)
    if "tokenizer.chat_template" in file.metadata:
        template = file.need("tokenizer.chat_template", str)
        (folder / FILE).write_text(template, encoding="utf-8")
    ends = [file.metadata.get(f"{KEY}{name}_token_id") for name in ("eos", "eot")]
    known = list(dict.fromkeys(end for end in ends if end is not None))
    if known:
        write_json(folder / "generation_config.json", {"eos_token_id": known})


def _find_token(file: GgufFile, tokens: list[str], name: str) -> str | None:
    """Return the token whose id the file gives under ``name``, or None."""
    number = file.metadata.get(f"{KEY}{name}")
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < len(tokens):
        raise CheckpointError(f"{file.path}: {KEY}{name} is {number!r:.80}, but it has {len(tokens)} tokens.")
    return tokens[number]


def _build_tokenizer(
    file: GgufFile, tokens: list[str], kinds: list[int], special: dict[str, str | None]
) -> Any:
    """Return the tokenizer, with its control tokens and what it puts before a text."""
    from tokenizers import AddedToken, processors

    kind = file.need(f"{KEY}model", str)
    vocabulary = {
        token: number
        for number, (token, what) in enumerate(zip(tokens, kinds, strict=True))
        if what != UNUSED  # rows that only fill up the table
    }
    if kind == "gpt2":
        tokenizer = _build_byte_level(file, vocabulary)
    elif kind == "llama":
        tokenizer = _build_sentencepiece(file, vocabulary, tokens, special["unknown"])
    else:
        raise CheckpointError(
            f"{file.path}: its tokenizer is {kind!r}; gpt2 and llama are known here. Give the model's own with "
            "`tokenizer` (a folder or hub id)."
        )
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, what in zip(tokens, kinds, strict=True)
            if what == CONTROL
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False)
            for token, what in zip(tokens, kinds, strict=True)
            if what == USER_DEFINED
        ]
    )
    begins = kind == "llama" or file.metadata.get(f"{KEY}pre") in WHOLE_WORDS  # llama.cpp's default
    if file.get(f"{KEY}add_bos_token", bool, begins) and (first := special["bos"]) is not None:
        template = processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", first, "$B"], special_tokens=[(first, vocabulary[first])]
        )
        tokenizer.post_processor = template
    return tokenizer


def _build_byte_level(file: GgufFile, vocabulary: dict[str, int]) -> Any:
    """Return a tokenizer that merges the bytes of a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name = file.get(f"{KEY}pre", str, "gpt-2")
    if name not in SPLITS:
        raise CheckpointError(
            f"{file.path}: {KEY}pre is {name!r}; {', '.join(SPLITS)} are known here. Give the model's own tokenizer "
            "with `tokenizer` (a folder or hub id)."
        )
    merges = []
    for merge in file.need_list(f"{KEY}merges", str):
        first, _, second = merge.partition(" ")
        if not {first, second, first + second} <= vocabulary.keys():
            raise CheckpointError(f"{file.path}: its tokens do not go with the merge {merge!r}.")
        merges.append((first, second))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in WHOLE_WORDS))
    split, own = SPLITS[name], pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), own]
        )
    elif split is None:
        tokenizer.pre_tokenizer = own
    else:
        cut = pre_tokenizers.Split(Regex(split), behavior="isolated")
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_of])
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _build_sentencepiece(
    file: GgufFile, vocabulary: dict[str, int], tokens: list[str], unknown: str | None
) -> Any:
    """Return a tokenizer that merges characters, the pair with the best score first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.need_list(f"{KEY}scores", float, len(tokens))
    merges = _find_merges(vocabulary, dict(zip(tokens, scores, strict=True)))
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    spaces = normalizers.Replace(" ", SPACE)
    first = file.get(f"{KEY}add_space_prefix", bool, True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if first else spaces
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if first else [])])
    return tokenizer


def _find_merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return every pair of tokens that make another, the one with the best score first."""
    found = []
    for whole in vocabulary:
        pairs = [(whole[:cut], whole[cut:]) for cut in range(1, len(whole))]
        pairs = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(scores[whole], pair) for pair in pairs]
    found.sort(key=lambda item: (item[0], len(item[1][0]), len(item[1][1])), reverse=True)
    return [pair for _, pair in found]
