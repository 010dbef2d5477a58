"""Turn a row into what the model reads: token ids, pictures, and which tokens it has to learn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Integer

from mm1_mlx.data.row_forms import Record
from mm1_mlx.errors import DataError, MM1Error
from mm1_mlx.inputs.content import shared_length
from mm1_mlx.inputs.inputs import Inputs, PreparedPicture
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import num_places, unescape


@dataclass(frozen=True)
class Example:
    """One row, tokenised and ready to be packed."""

    name: str  # name of the row, for messages
    ids: Integer[np.ndarray, "L"]  # with image_token_id once for every visual token
    learned: Bool[np.ndarray, "L"]  # tokens that count in the loss; never those of a picture, never the first
    pictures: tuple[PreparedPicture, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_learned(self) -> int:
        return int(self.learned.sum())


def make_example(
    record: Record,
    processor: Processor,
    *,
    train_on_prompt: bool = False,
    max_length: int | None = None,
    max_pictures: int | None = None,
    truncate: bool = False,
) -> Example:
    """Tokenise a row and find its pictures; they are not decoded.

    In a conversation the assistant's turns are learned, each with the token that ends it. In a document (a
    caption, interleaved or plain text) all text is learned, and the token that ends it.

    Args:
        record: the row.
        processor: from ``load``.
        train_on_prompt: learn all text of a conversation.
        max_length: tokens; a longer row is refused, or cut.
        max_pictures: a row with more is refused, or cut before the first picture that is too many.
        truncate: cut a row that is longer, or longer than the model's context, never inside a picture.

    Raises:
        DataError: the row cannot be read, is too long, or has nothing to learn.
    """
    try:
        if record.document is not None:
            ids, learned = _tokenize_document(record.document, len(record.images), processor)
        else:
            ids, learned = _tokenize_conversation(record, processor, train_on_prompt)
        inputs = processor.assemble(ids, record.images, to_be_cut=truncate)
    except MM1Error as error:
        raise DataError(f"{record.name}: {error}") from None
    flags = _spread(ids, learned, inputs, processor.config.image_token_id)
    example = Example(record.name, np.array(inputs.input_ids), flags, inputs.pictures)
    limits = (
        (len(example), "tokens", "max_seq_length", max_length),
        (len(example.pictures), "pictures", "max_pictures", max_pictures),
    )
    for found, things, name, most in limits:
        if most is not None and found > most and not truncate:
            raise DataError(
                f"{record.name}: it is {found:,} {things}, more than `{name}` {most:,}; shorten it, "
                "raise the limit, or give `truncate`."
            )
    bounds = [most for most in (max_length, processor.config.text_config.max_positions) if most is not None]
    example = _cut(example, inputs, min(bounds, default=None), max_pictures)
    example.learned[0] = False  # nothing comes before the first token, so nothing predicts it
    if not example.num_learned:
        raise DataError(
            f"{record.name}: there is nothing to learn in it; give an answer that fits the limit."
        )
    return example


def _tokenize_document(text: str, num_images: int, processor: Processor) -> tuple[list[int], list[bool]]:
    """Return the ids of a document, and whether each of them is learned."""
    ids = processor.prompt_ids(text, num_images, template="plain")
    begin, end = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
    if end is not None and ids[-1] != end:
        ids = [*ids, end]
    return ids, [id != begin for id in ids]


def _tokenize_conversation(
    record: Record, processor: Processor, train_on_prompt: bool
) -> tuple[list[int], list[bool]]:
    """Return the ids of the whole conversation, and whether the model itself would have to write each of them."""
    messages = record.messages(processor.config.prompt_config.after_image)

    def ids_of(number: int, *, answer_next: bool) -> list[int]:
        places = sum(num_places(message["content"]) for message in messages[:number])
        return processor.prompt_ids(messages[:number], places, answer_next=answer_next)

    ids = ids_of(len(messages), answer_next=False)
    if train_on_prompt:
        return ids, [True] * len(ids)
    learned = [False] * len(ids)
    ends = processor.tokenizer.eos_token_ids
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        begin = shared_length(ids_of(number, answer_next=True), ids)
        following = (
            shared_length(ids_of(number + 2, answer_next=False), ids)
            if number + 2 < len(messages)
            else len(ids)
        )
        end = next((n + 1 for n in range(begin, following) if ids[n] in ends), None)
        if end is None:
            end = shared_length(ids_of(number + 1, answer_next=False), ids)
        text, there = unescape(message["content"]).strip(), processor.tokenizer.decode(ids[begin:end])
        if text not in there and _read_back(text, processor) not in there:
            raise DataError(
                f"message {number + 1}, {text[:40]!r}, is not found where the model's chat template puts it; the "
                "template writes earlier turns otherwise than the last. Split the row into one for each answer."
            )
        learned[begin:end] = [True] * (end - begin)
    return ids, learned


def _read_back(text: str, processor: Processor) -> str:
    """Return a text as the tokenizer gives it back: in another normal form, perhaps, such as NFC."""
    return processor.tokenizer.decode(processor.tokenizer.encode(text, add_special_tokens=False)).strip()


def _spread(ids: list[int], learned: list[bool], inputs: Inputs, token: int) -> Bool[np.ndarray, "L"]:
    """Extend the flags of ids without pictures to the ids with pictures; all flags of a picture's positions are off."""
    flags: list[bool] = []
    lengths = iter(len(places) for places in inputs.image_places)
    for id, flag in zip(ids, learned, strict=True):
        flags += [False] * next(lengths) if id == token else [flag]
    return np.array(flags)


def _cut(example: Example, inputs: Inputs, max_length: int | None, max_pictures: int | None) -> Example:
    """Keep as many tokens and pictures as allowed, and no picture in part."""
    stop = len(example) if max_length is None else min(max_length, len(example))
    for number, places in enumerate(inputs.image_places):
        if places.stop > stop or number == max_pictures:
            stop = min(stop, places.start)
            break
    kept = sum(places.stop <= stop for places in inputs.image_places)
    return replace(
        example, ids=example.ids[:stop], learned=example.learned[:stop], pictures=example.pictures[:kept]
    )
