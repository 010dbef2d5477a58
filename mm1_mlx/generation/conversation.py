"""A conversation about pictures, turn by turn, in which every picture is encoded and every text is read only once."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from mm1_mlx.errors import MM1Error, PromptError
from mm1_mlx.generation.answering import Piece
from mm1_mlx.generation.decoding import Decoding
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.request import Request
from mm1_mlx.generation.saved_conversation import VERSION, SavedConversation, SavedMessage, SavedPicture
from mm1_mlx.generation.stream import require_usable, stream_answer
from mm1_mlx.inputs.few_shot import Shot
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.picture import Picture, Source, find_picture
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import IMAGE, Message, escape, num_places, remove_places
from mm1_mlx.inputs.sources import is_path, to_path
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.cache import VisionCache

CAPTION_QUESTION = "Describe the picture."  # the question for a worked example that is a caption


@dataclass(frozen=True)
class Attached:
    """A picture as it was when it was attached, whatever happens to its file later."""

    picture: Picture
    path: Path | None  # absolute; None for a picture that is not a file

    @property
    def name(self) -> str:
        """The name of the picture, for people."""
        return self.path.name if self.path else self.picture.name


@dataclass(frozen=True)
class Costs:
    """The numbers of tokens in a conversation."""

    parts: list[tuple[str, int]]  # of each message's text, of each picture, and of the chat template
    total: int
    context: int | None  # the most tokens the model can use; None if there is no limit


class Conversation:
    """Messages, their pictures, and what the model has read of them.

    Args:
        model: from ``load``.
        processor: from ``load``.
        model_name: name of the model, for messages and in saved conversations.
        decoding: how answers are written.
        vision_cache: where visual tokens are kept; by default in memory.

    Raises:
        MM1Error: the model has no chat template, or a setting does not fit it.
    """

    def __init__(
        self,
        model: MM1,
        processor: Processor,
        *,
        model_name: str,
        decoding: Decoding | None = None,
        vision_cache: VisionCache | None = None,
    ):
        if not processor.tokenizer.chat_template:
            raise PromptError(f"{model_name} has no chat template; ask it with python -m mm1_mlx.generate.")
        self._model = model
        self._processor = processor
        self._model_name = model_name
        self._vision_cache = vision_cache or VisionCache()
        decoding = decoding or Decoding()
        self._prefix = Prefix(model, kv_bits=decoding.kv_bits, max_kv_size=decoding.max_kv_size)
        self._decoding = replace(decoding, kv_bits=None, max_kv_size=None)  # the prefix has these two
        require_usable(model, self._decoding, self._prefix)
        self._system: str | None = None
        self.reset()

    def reset(self) -> None:
        """Delete messages and pictures, but keep the system message."""
        self.messages: list[Message] = []
        self.pictures: list[Attached] = []  # pictures of the messages, in reading order
        self.waiting: list[Attached] = []  # pictures for the next question

    @property
    def system(self) -> str | None:
        """The system message. It comes first, so after a change the next answer must read all text again.

        Raises:
            PromptError: the chat template has no system messages, or the message does not fit the context.
        """
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        if text is not None and num_places(text):
            raise PromptError(
                f"a system message has no pictures; leave {IMAGE} out, or write \\{IMAGE} for the word."
            )
        self._require_fit(self.messages, [*self.pictures, *self.waiting], text)
        self._system = text

    @property
    def context(self) -> int | None:
        """The number of tokens that the model can read and write in all, or None if there is no limit."""
        return self._model.config.text_config.max_positions

    def attach(self, *sources: str | Path | bytes) -> list[Attached]:
        """Open pictures for the next question, either all of them or none.

        Raises:
            PictureError: a picture cannot be opened.
            PromptError: the pictures do not fit the context.
        """
        found = [self._open(source) for source in sources]
        self._require_fit(self.messages, [*self.pictures, *self.waiting, *found], self.system)
        self.waiting += found
        return found

    def ask(self, text: str) -> Generator[Piece, None, None]:
        """Yield the answer as it is written.

        If the iterator is closed early or interrupted, the conversation keeps the answer so far. If there is none yet,
        or after an error, it is as before, and the pictures are still attached to the next question.

        Args:
            text: the question. Attached pictures come before it, or at its ``<image>``.

        Raises:
            MM1Error: as ``stream_generate``; it is raised when the first piece is asked for.
        """
        question = {"role": "user", "content": self._add_places(text)}
        pictures = [*self.pictures, *self.waiting]
        said, complete = "", False
        images = [attached.picture for attached in pictures]
        pieces = stream_answer(
            self._model,
            self._processor,
            Request([*self.messages, question], images, self.system),
            self._decoding,
            vision_cache=self._vision_cache,
            prefix=self._prefix,
        )
        try:
            with closing(pieces):
                for piece in pieces:
                    said += piece.text
                    complete = piece.finish_reason is not None
                    yield piece
        except (MM1Error, GeneratorExit):
            raise
        except BaseException:  # perhaps between two layers, so the content of the KV cache is unknown
            self._prefix.clear()
            raise
        finally:
            if said or complete:
                self.messages += [question, {"role": "assistant", "content": escape(said)}]
                self.pictures, self.waiting = pictures, []

    def add_shots(self, shots: Sequence[Shot]) -> None:
        """Add worked examples as earlier turns, each with a question and its answer.

        A rationale comes before its answer, as in MM1. For a caption, the question is "Describe the picture.", which a
        chat model understands better than the few-shot "A photo of".

        Raises:
            MM1Error: a picture cannot be opened, or the examples do not fit the context.
        """
        messages, pictures = list(self.messages), list(self.pictures)
        for shot in shots:
            if shot.image is not None:
                pictures.append(self._open(shot.image))
            question = self._make_places(shot.image is not None) + (shot.question or CAPTION_QUESTION)
            answer = " ".join(filter(None, (shot.rationale, shot.answer, shot.caption)))
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        self._require_fit(messages, [*pictures, *self.waiting], self.system)
        self.messages, self.pictures = messages, pictures

    def count_tokens(self) -> Costs:
        """Count the tokens of the conversation before the next question, including the pictures attached to it.

        Raises:
            PromptError: the conversation does not fit the context any more.
        """
        if not (self.messages or self.waiting):
            return Costs([], 0, self.context)
        messages = [*self.messages, {"role": "user", "content": self._make_places(len(self.waiting))}]
        pictures = [*self.pictures, *self.waiting]
        inputs = self._prepare(messages, pictures, self.system)
        lengths = iter(len(layout.ids) for layout in inputs.layouts)
        named = iter(pictures)
        parts = [] if self.system is None else [("system", self._processor.num_text_tokens(self.system))]
        for message in messages:
            content = message["content"]
            if text := remove_places(content):
                parts.append((f"{message['role']}: {text}", self._processor.num_text_tokens(content)))
            for _ in range(num_places(content)):
                parts.append((next(named).name, next(lengths)))
        total = len(inputs.input_ids)
        parts.append(("chat template", total - sum(tokens for _, tokens in parts)))
        return Costs(parts, total, self.context)

    def save(self, path: str | Path) -> None:
        """Write the system message, the messages and the paths of the pictures to a file, for ``load``.

        A picture whose file has been changed or deleted since it was attached is written itself.

        Raises:
            PromptError: another kind of file has this name, or the file cannot be written.
        """
        SavedConversation(
            version=VERSION,
            model=self._model_name,
            system=self.system,
            messages=tuple(SavedMessage(**message) for message in self.messages),
            pictures=tuple(
                SavedPicture.from_picture(a.picture, a.path) for a in (*self.pictures, *self.waiting)
            ),
        ).write(Path(os.path.expanduser(path)))

    def load(self, path: str | Path) -> str:
        """Replace this conversation by a saved one, and return the name of the model that it was held with.

        Raises:
            MM1Error: the file cannot be used, a picture is missing or has changed, or it does not fit this model.
        """
        path = Path(os.path.expanduser(path))
        saved = SavedConversation.read(path)
        messages = [message.to_dict() for message in saved.messages]
        pictures = []
        try:
            for entry in saved.pictures:
                pictures.append(self._open(entry.data or Path(entry.path or "")))
                entry.require_same(pictures[-1].picture)
            self._require_fit(messages, pictures, saved.system)
        except MM1Error as error:
            raise type(error)(f"{path}: {error}") from None
        num_shown = _num_places(messages)
        self._system, self.messages = saved.system, messages
        self.pictures, self.waiting = pictures[:num_shown], pictures[num_shown:]
        return saved.model

    def _open(self, source: Source) -> Attached:
        """Open a picture, and refuse one that cannot be decoded or does not fit the model's way of resizing."""
        path = None
        if isinstance(source, Path) or (isinstance(source, str) and is_path(source)):
            source = to_path(source)
            path = Path(os.path.abspath(source))
        picture = find_picture(source, max_pixels=self._processor.max_pixels, fetch=self._processor.fetch)
        picture.decode()
        self._processor.num_visual_tokens(*picture.size)
        return Attached(picture, path)

    def _prepare(self, messages: list[Message], pictures: list[Attached], system: str | None) -> Inputs:
        return self._processor(messages, [a.picture for a in pictures], system=system)

    def _require_fit(self, messages: list[Message], pictures: list[Attached], system: str | None) -> None:
        """Refuse messages and pictures that leave no room for a question; extra pictures belong to that question."""
        num_shown = _num_places(messages)
        if num_shown > len(pictures):
            raise PromptError(
                f"the messages have {num_shown} {IMAGE}, but there are {len(pictures)} pictures."
            )
        question = self._make_places(len(pictures) - num_shown) + "?"
        self._prepare([*messages, {"role": "user", "content": question}], pictures, system)

    def _add_places(self, text: str) -> str:
        if not text.strip():
            raise PromptError("the question is empty; ask something.")
        places, num_waiting = num_places(text), len(self.waiting)
        if not places:
            return self._make_places(num_waiting) + text
        if places != num_waiting:
            pictures = "picture waits" if num_waiting == 1 else "pictures wait"
            raise PromptError(
                f"the question has {places} {IMAGE} but {num_waiting} {pictures}; attach as many."
            )
        return text

    def _make_places(self, number: int) -> str:
        return (IMAGE + self._processor.config.prompt_config.after_image) * number


def _num_places(messages: list[Message]) -> int:
    return sum(num_places(message["content"]) for message in messages)
