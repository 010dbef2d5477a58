"""A conversation about pictures, turn by turn: what was encoded or read once is not encoded or read again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
from mm1_mlx.inputs.picture import Picture, find_picture
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import IMAGE, Message, escape, num_places, remove_places
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.cache import VisionCache

NO_PATH = ("data:", "http:", "https:")  # how a source begins that is none
CAPTION_QUESTION = "Describe the picture."  # what a shot that is a caption answers


@dataclass(frozen=True)
class Attached:
    """A picture as it was when it was attached; what happens to its file later does not matter."""

    picture: Picture
    path: Path | None  # absolute; None where it has none

    @property
    def name(self) -> str:
        return self.path.name if self.path else self.picture.name


@dataclass(frozen=True)
class Costs:
    """Tokens of a conversation."""

    parts: list[tuple[str, int]]  # each message's text, each picture, and what the chat template adds
    total: int
    context: int | None  # the model's, where it has a limit


class Conversation:
    """Messages, their pictures, and what the model has read of them.

    Args:
        model: from ``load``.
        processor: from ``load``.
        model_name: for messages, and saved with the conversation.
        decoding: how answers are written.
        vision_cache: visual tokens of pictures seen before; by default one in memory.

    Raises:
        MM1Error: the model has no chat template, or a setting does not go with it.
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
        self._decoding = replace(decoding, kv_bits=None, max_kv_size=None)  # which the prefix has
        require_usable(model, self._decoding, self._prefix)
        self._system: str | None = None
        self.reset()

    def reset(self) -> None:
        """Forget messages and pictures. The system message stays."""
        self.messages: list[Message] = []
        self.pictures: list[Attached] = []  # of the messages, in reading order
        self.waiting: list[Attached] = []  # for the next question

    @property
    def system(self) -> str | None:
        """The system message. A new one stands before everything, so the next answer reads all text again.

        Raises:
            PromptError: the chat template knows no system message, or it does not fit the context.
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
        """Tokens that the model can read and write in all."""
        return self._model.config.text_config.max_positions

    def attach(self, *sources: str | Path | bytes) -> list[Attached]:
        """Open pictures for the next question: all of them or none.

        Raises:
            PictureError: one cannot be opened.
            PromptError: they do not fit the context.
        """
        found = [self._open(source) for source in sources]
        self._require_fit(self.messages, [*self.pictures, *self.waiting, *found], self.system)
        self.waiting += found
        return found

    def ask(self, text: str) -> Iterator[Piece]:
        """Yield the answer as it comes. New pictures stand before ``text``, or in its ``<image>``.

        Closed early, or interrupted, the conversation goes on with what was said so far. Where nothing was,
        and after an error, it is as before, and the pictures still wait.

        Raises:
            MM1Error: as ``stream_generate``. It comes when the first piece is asked for.
        """
        question = {"role": "user", "content": self._with_places(text)}
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
        except BaseException:  # somewhere between two layers, perhaps: what the KV cache holds is not known
            self._prefix.clear()
            raise
        finally:
            if said or complete:
                self.messages += [question, {"role": "assistant", "content": escape(said)}]
                self.pictures, self.waiting = pictures, []

    def add_shots(self, shots: Sequence[Shot]) -> None:
        """Take worked examples for turns that went before, each a question and its answer.

        A rationale stands before its answer, as MM1 has it. A caption answers "Describe the picture.", which
        a chat model understands better than the few-shot "A photo of".

        Raises:
            MM1Error: a picture cannot be opened, or they do not fit the context.
        """
        messages, pictures = list(self.messages), list(self.pictures)
        for shot in shots:
            if shot.image is not None:
                pictures.append(self._open(shot.image))
            question = self._places(shot.image is not None) + (shot.question or CAPTION_QUESTION)
            answer = " ".join(filter(None, (shot.rationale, shot.answer, shot.caption)))
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        self._require_fit(messages, [*pictures, *self.waiting], self.system)
        self.messages, self.pictures = messages, pictures

    def tokens(self) -> Costs:
        """Return what the conversation costs as it stands before the next question; pictures that wait are in it.

        Raises:
            PromptError: it has outgrown the context.
        """
        if not (self.messages or self.waiting):
            return Costs([], 0, self.context)
        messages = [*self.messages, {"role": "user", "content": self._places(len(self.waiting))}]
        pictures = [*self.pictures, *self.waiting]
        inputs = self._inputs(messages, pictures, self.system)
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
        """Write system message, messages and where the pictures are, for ``load``.

        A picture whose file has changed or gone since it was attached is written with them.

        Raises:
            PromptError: another file has that name, or it cannot be written.
        """
        SavedConversation(
            version=VERSION,
            model=self._model_name,
            system=self.system,
            messages=tuple(SavedMessage(**message) for message in self.messages),
            pictures=tuple(SavedPicture.of(a.picture, a.path) for a in (*self.pictures, *self.waiting)),
        ).write(Path(os.path.expanduser(path)))

    def load(self, path: str | Path) -> str:
        """Go on with a saved conversation instead of this one; returns the name of the model that held it.

        Raises:
            MM1Error: the file cannot be used, a picture is gone or another, or it does not fit this model.
        """
        path = Path(os.path.expanduser(path))
        saved = SavedConversation.read(path)
        messages = [message.to_dict() for message in saved.messages]
        pictures = []
        try:
            for entry in saved.pictures:
                pictures.append(self._open(entry.data or Path(entry.path)))
                entry.require_same(pictures[-1].picture)
            self._require_fit(messages, pictures, saved.system)
        except MM1Error as error:
            raise type(error)(f"{path}: {error}") from None
        num_shown = _num_places(messages)
        self._system, self.messages = saved.system, messages
        self.pictures, self.waiting = pictures[:num_shown], pictures[num_shown:]
        return saved.model

    def _open(self, source: str | Path | bytes | Picture) -> Attached:
        """Open a picture; it must be one that can be decoded and fits the model's way of resizing."""
        path = None
        if isinstance(source, Path) or (isinstance(source, str) and not source.startswith(NO_PATH)):
            source = Path(os.path.expanduser(source))
            path = Path(os.path.abspath(source))
        picture = find_picture(source, max_pixels=self._processor.max_pixels)
        picture.decode()
        self._processor.num_visual_tokens(*picture.size)
        return Attached(picture, path)

    def _inputs(self, messages: list[Message], pictures: list[Attached], system: str | None) -> Inputs:
        return self._processor(messages, [a.picture for a in pictures], system=system)

    def _require_fit(self, messages: list[Message], pictures: list[Attached], system: str | None) -> None:
        """Refuse what leaves no room for a question. Pictures beyond those of the messages wait for it."""
        num_shown = _num_places(messages)
        if num_shown > len(pictures):
            raise PromptError(
                f"the messages have {num_shown} {IMAGE}, but there are {len(pictures)} pictures."
            )
        question = self._places(len(pictures) - num_shown) + "?"
        self._inputs([*messages, {"role": "user", "content": question}], pictures, system)

    def _with_places(self, text: str) -> str:
        if not text.strip():
            raise PromptError("the question is empty; ask something.")
        places, num_waiting = num_places(text), len(self.waiting)
        if not places:
            return self._places(num_waiting) + text
        if places != num_waiting:
            pictures = "picture waits" if num_waiting == 1 else "pictures wait"
            raise PromptError(
                f"the question has {places} {IMAGE} but {num_waiting} {pictures}; attach as many."
            )
        return text

    def _places(self, number: int) -> str:
        return (IMAGE + self._processor.config.prompt_config.after_image) * number


def _num_places(messages: list[Message]) -> int:
    return sum(num_places(message["content"]) for message in messages)
