"""Find a source's tokenizer, and the ids of the tokens that a model needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mm1_mlx.checkpoint.tokenizer import explain_tokenizer_errors, probe_tokenizer
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_files import write_json
from mm1_mlx.files.weights import list_some

from .hub import find_source
from .recipe import Options
from .source_config import SourceConfig, read_json

DECODER_SECTIONS = ("text_config", "language_config", "lm_config", "llm_config")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
SETTINGS = "tokenizer_config.json"
ROLES = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")


def tokenizer_folder(folder: Path, options: Options, named: str | None = None) -> Path:
    """Return the folder that holds the tokenizer: the one given, or the source's own.

    Raises:
        CheckpointError: none of them has one.
    """
    if options.tokenizer is not None:
        found = find_source(options.tokenizer, weights=False)
        if not _has_tokenizer(found):
            raise CheckpointError(
                f"{found} holds no {', '.join(TOKENIZER_FILES[:-1])} or {TOKENIZER_FILES[-1]}."
            )
        return found
    if _has_tokenizer(folder):
        return folder
    hint = f" Its configuration names {named!r}." if named else ""
    raise CheckpointError(f"{folder} has no tokenizer; give one with `tokenizer` (a folder or hub id).{hint}")


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in TOKENIZER_FILES)


def load_tokenizer(folder: Path) -> Any:
    """Load the transformers tokenizer of ``folder``; no code of the folder is executed.

    A tokenizer with a class of its publisher's own is read from its ``tokenizer.json``, which says how text is cut.

    Raises:
        CheckpointError: it cannot be loaded, or only its publisher's code can load it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    own = _has_own_code(folder)
    if own and not (folder / TOKENIZER_FILES[0]).exists():
        raise CheckpointError(
            f"the tokenizer of {folder} is its publisher's own code, which is not run here, and it has no "
            f"{TOKENIZER_FILES[0]}; give a tokenizer that has one with `tokenizer` (a folder or hub id)."
        )
    with (
        explain_tokenizer_errors(folder),
        warnings.catch_warnings(action="ignore"),  # transformers warns about the config.json beside it
    ):
        kind = PreTrainedTokenizerFast if own else AutoTokenizer
        tokenizer = kind.from_pretrained(folder, trust_remote_code=False)
        probe_tokenizer(tokenizer)
        return tokenizer


def _has_own_code(folder: Path) -> bool:
    """Tell whether a folder names code of its publisher's as the class of its tokenizer."""
    named = (_read_values(folder / name).get("auto_map") for name in (SETTINGS, "config.json"))
    return any(isinstance(names, dict) and "AutoTokenizer" in names for names in named)


def _read_values(path: Path) -> dict[str, Any]:
    return read_json(path).values if path.exists() else {}


def write_settings(source: Path, folder: Path) -> None:
    """Write a tokenizer's settings into ``folder`` without the names of code that is not there."""
    values = _read_values(source / SETTINGS)
    if _has_own_code(source):
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    values.pop("auto_map", None)
    write_json(folder / SETTINGS, values)


def image_token_id(
    tokenizer: Any, options: Options, candidates: Sequence[str], vocab_size: int, *, advice: str = ""
) -> int:
    """Return the id of the token that stands for a picture: the user's choice, or the first known candidate.

    ``advice`` ends the message where there is none.

    Raises:
        CheckpointError: the tokenizer does not know it within the decoder's vocabulary, or is the larger of the two.
    """
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the decoder's vocabulary is {vocab_size}: it is "
            "another model's."
        )
    wanted = (options.image_token,) if options.image_token is not None else candidates
    vocabulary = tokenizer.get_vocab()
    found = next(
        (vocabulary[token] for token in wanted if vocabulary.get(token, vocab_size) < vocab_size), None
    )
    if found is None:
        raise CheckpointError(
            f"the tokenizer has no token {' or '.join(map(repr, wanted))} to stand for a picture within the decoder's "
            f"{vocab_size}; name one of its tokens that text never holds with `image_token`"
            f"{_describe_unused(tokenizer, vocab_size)}{advice}."
        )
    return found


def _describe_unused(tokenizer: Any, vocab_size: int) -> str:
    """Return in words which special tokens have no other use that the tokenizer states: none or some."""
    used = [getattr(tokenizer, f"{role}_token", None) for role in ROLES]
    template = str(tokenizer.chat_template or "")
    unused = [
        repr(entry.content)
        for id, entry in tokenizer.added_tokens_decoder.items()
        if entry.special and id < vocab_size and entry.content not in used and entry.content not in template
    ]
    return f" (its unused special tokens: {list_some(unused, shown=8)})" if unused else ""


def end_token_ids(
    folder: Path, tokenizer: Any, candidates: Sequence[str] = ()
) -> int | tuple[int, ...] | None:
    """Return the tokens that end an answer: those that the folder states, ``candidates``, and the tokenizer's own.

    generation_config.json states them, or else config.json, at its top or in its section about the decoder.

    Raises:
        CheckpointError: what a file states are not token ids.
    """
    ends: list[Any] = next(filter(None, map(_read_ends, _where_ends_stand(folder))), [])
    ends += [tokenizer.get_vocab().get(token) for token in candidates]
    ends.append(tokenizer.eos_token_id)
    known = tuple(dict.fromkeys(end for end in ends if end is not None))
    return known[0] if len(known) == 1 else known or None


def _where_ends_stand(folder: Path) -> Iterator[SourceConfig]:
    """Yield the parts of a source's configuration that may say which tokens end an answer, the most decisive first."""
    if (folder / "generation_config.json").exists():
        yield read_json(folder / "generation_config.json")
    if (folder / "config.json").exists():
        config = read_json(folder / "config.json")
        yield config
        yield from (
            config.section(name) for name in DECODER_SECTIONS if isinstance(config.values.get(name), dict)
        )


def _read_ends(config: SourceConfig) -> list[int]:
    value = config.values.get("eos_token_id")
    ends = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(end) is not int for end in ends):
        raise CheckpointError(
            f"{config.where}: eos_token_id is {value!r}, expected a token id or a list of them."
        )
    return list(ends)
