"""The processor: turn a prompt and its pictures into what the model reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import mlx.core as mx

from mm1_mlx.arguments import require_type
from mm1_mlx.config import MM1Config
from mm1_mlx.errors import MM1Error, PromptError, is_panic
from mm1_mlx.inputs.context import PictureCost, require_context
from mm1_mlx.inputs.control_tokens import ControlTokens, find_control_tokens
from mm1_mlx.inputs.few_shot import Shot, few_shot
from mm1_mlx.inputs.inputs import Inputs, PreparedPicture
from mm1_mlx.inputs.layout import Layout, layout
from mm1_mlx.inputs.picture import Source, find_picture, require_list
from mm1_mlx.inputs.prompt import IMAGE, Prompt, escape, insert_image_parts, messages_of, plain_text, split_at
from mm1_mlx.inputs.sources import Fetch, refuse_to_fetch
from mm1_mlx.inputs.sub_images import view_indices
from mm1_mlx.settings import MAX_PICTURE_PIXELS, Template

TOKENIZING = threading.Lock()  # encoding changes which tokens the tokenizer splits, and threads share it


class Processor:
    """Turns prompts and pictures into ``Inputs``; everything it needs is in the model folder.

    Args:
        tokenizer: mlx-lm's wrapper of the folder's tokenizer.
        config: the model's configuration.
        max_pixels: larger pictures are refused before they are decoded.
        fetch: function that returns the picture at a web address, such as ``fetching.fetch``; by default none is
            downloaded.
    """

    def __init__(
        self,
        tokenizer: Any,
        config: MM1Config,
        *,
        max_pixels: int = MAX_PICTURE_PIXELS,
        fetch: Fetch = refuse_to_fetch,
    ):
        self.tokenizer = tokenizer
        self.config = config
        self.max_pixels = max_pixels
        self.fetch = fetch
        self.notices: list[str] = []  # told on stderr when an answer first reads a picture

    @property
    def image_token(self) -> str:
        """The token that stands for a picture once a prompt is tokenised."""
        return self.tokenizer.convert_ids_to_tokens(self.config.image_token_id)

    def with_image_config(self, **changes: Any) -> Processor:
        """Return a processor for the same model with other high-resolution settings, which are ``ImageConfig``'s
        fields.

        If ``image_size`` is larger than the model's positions are for, they are interpolated. Settings that a new
        ``sub_images`` does not use go back to their defaults.

        Raises:
            ConfigError: the settings do not fit each other, or the model cannot read such views.
        """
        image_config = self.config.image_config.changed(**changes)
        config = replace(self.config, image_config=image_config)
        changed = Processor(self.tokenizer, config, max_pixels=self.max_pixels, fetch=self.fetch)
        changed.notices = self.notices
        return changed

    def num_visual_tokens(self, width: int, height: int, *, num_images: int = 1) -> int:
        """Return the number of visual tokens of an upright picture, in a prompt of ``num_images`` pictures.

        Text between them (position tags, tokens between rows) is not counted.

        Args:
            width: in pixels.
            height: in pixels.
            num_images: pictures in the prompt.

        Raises:
            PictureError: the picture is too long and thin for the model's way of resizing.
        """
        found = layout((width, height), self.config, num_images=num_images, encode=self._encode)
        return found.num_visual_tokens

    def num_text_tokens(self, text: str) -> int:
        """Return the number of tokens of what people wrote, without the places of pictures and the chat template."""
        return len(self._ids(self._controls.hide(text).replace(IMAGE, "")))

    def __call__(
        self,
        prompt: Prompt,
        images: Sequence[Source] = (),
        *,
        system: str | None = None,
        template: Template = "chat",
        num_low_resolution: int = 0,
    ) -> Inputs:
        """Prepare one prompt.

        Args:
            prompt: a question, or a list of chat messages; ``<image>`` stands where a picture goes.
            images: the pictures in reading order; where the prompt has no ``<image>``, they come first.
            system: a system message before the conversation.
            template: "chat" renders the folder's chat template, where it has one; "plain" takes a
                string unchanged, which MM1's few-shot prompts need.
            num_low_resolution: this many pictures, the first ones, become one view each, so that many shots
                fit; the others are cut as if they were the only ones in the prompt.

        Raises:
            PromptError: places and pictures differ in number, the prompt is longer than the context, or
                ``num_low_resolution`` is not possible.
            PictureError: a picture cannot be opened.
        """
        require_list(images)
        require_type("num_low_resolution", num_low_resolution, int, PromptError)
        ids = self.prompt_ids(prompt, len(images), system=system, template=template)

        def messages() -> list[tuple[str, int]]:
            if isinstance(prompt, str) and system is None:
                return []
            found = messages_of(prompt, len(images), system=system)
            return [(m["role"], self.num_text_tokens(m["content"])) for m in found]

        return self.assemble(ids, images, num_low_resolution=num_low_resolution, messages=messages)

    def prompt_ids(
        self,
        prompt: Prompt,
        num_images: int,
        *,
        system: str | None = None,
        template: Template = "chat",
        answer_next: bool = True,
        answer: str = "",
    ) -> list[int]:
        """Return a prompt's token ids, with the image token once for each picture.

        Args:
            prompt: as in ``__call__``.
            num_images: how many pictures there are.
            system: a system message before the conversation.
            template: as in ``__call__``.
            answer_next: end where the model has to answer; otherwise with the last message.
            answer: text after that, with which the answer begins.

        Raises:
            PromptError: as ``__call__``, except that the context is not checked.
        """
        require_type("prompt", prompt, str | Sequence, PromptError)
        require_type("system", system, str | None, PromptError)
        require_type("template", template, Template, PromptError)
        hide = self._controls.hide
        chat = template == "chat" and bool(self.tokenizer.chat_template)
        if chat:
            text = self._chat_text(prompt, num_images, system, answer_next)
        elif isinstance(prompt, str):
            text = plain_text(prompt, num_images, hide=hide)
            text = text if system is None else f"{hide(system)}\n{text}"
        else:
            why = "the template is plain" if template == "plain" else "this model has no chat template"
            raise PromptError(f"{why}; give the prompt as one string.")
        text = text.replace(IMAGE, self.image_token) + hide(escape(answer))
        return self._tokenize(text, chat, num_images)

    def assemble(
        self,
        ids: list[int],
        images: Sequence[Source],
        *,
        num_low_resolution: int = 0,
        messages: Callable[[], Sequence[tuple[str, int]]] = list,
        to_be_cut: bool = False,
    ) -> Inputs:
        """Put pictures into the places that ``prompt_ids`` left for them.

        Args:
            ids: tokens, with the image token once for each picture.
            images: the pictures in reading order.
            num_low_resolution: as in ``__call__``.
            messages: returns (name, tokens) of each message, for the error that ids do not fit the context.
            to_be_cut: allow more ids than the context has, because the caller cuts them.

        Raises:
            PromptError: the result is longer than the context, or ``num_low_resolution`` is not possible.
            PictureError: a picture cannot be opened.
        """
        configs = self._configs(len(images), num_low_resolution)
        context = None if to_be_cut else self.config.text_config.max_positions
        num_text = len(ids) - len(images)
        require_context(context, num_text, [PictureCost(self._fewest_tokens())] * len(images), messages)
        num_high = len(images) - num_low_resolution
        pictures = tuple(
            self._prepare(source, config, picture_number=number, num_images=num_high)
            for number, (source, config) in enumerate(zip(images, configs, strict=True))
        )
        costs = [PictureCost(len(p.layout.ids), p.num_views, p.picture.size) for p in pictures]
        require_context(context, num_text, costs, messages)
        ids, places = self._expand(ids, [picture.layout for picture in pictures])
        visual = ids.count(self.config.image_token_id)
        return Inputs(mx.array(ids, dtype=mx.int32), places, visual, pictures, self.config.image_config)

    def few_shot(self, shots: Sequence[Shot], query: Shot, *, low_resolution: bool = False) -> Inputs:
        """Prepare worked examples and a query, as ``inputs.few_shot`` writes them.

        Args:
            shots: worked examples of one kind: captions, questions, or questions with rationales.
            query: the question; its own caption, rationale and answer are not shown.
            low_resolution: make one view of each of the shots' pictures, so that more of them fit.

        Raises:
            MM1Error: as ``inputs.few_shot`` and ``__call__`` with a plain prompt.
        """
        prompt = few_shot(shots, query)
        low = prompt.num_low_resolution if low_resolution else 0
        return self(prompt.text, prompt.images, template="plain", num_low_resolution=low)

    def _fewest_tokens(self) -> int:
        """Return how many visual tokens any picture takes at least; it allows refusing a prompt before opening
        pictures.
        """
        smart = self.config.image_config.resize == "smart"
        return 1 if smart else self.config.connector_config.num_tokens(*self.config.patch_grid)

    def _configs(self, num_images: int, num_low_resolution: int) -> list[MM1Config]:
        """Return the configuration to use for each picture; the first, low-resolution ones are not cut."""
        if not 0 <= num_low_resolution <= num_images:
            raise PromptError(
                f"num_low_resolution is {num_low_resolution}, expected 0 to {num_images}, the number of pictures."
            )
        if not num_low_resolution:
            return [self.config] * num_images
        num_views = self.config.connector_config.views_at_once
        if num_views > 1:
            raise PromptError(
                f"num_low_resolution is {num_low_resolution}, but this model's connector needs {num_views} views of "
                "every picture; leave it at 0."
            )
        low = self.with_image_config(sub_images="none").config
        return [low] * num_low_resolution + [self.config] * (num_images - num_low_resolution)

    def _prepare(
        self, source: Source, config: MM1Config, *, picture_number: int, num_images: int
    ) -> PreparedPicture:
        """Find one picture's place in the sequence, from its size alone."""
        image_config = config.image_config
        picture = find_picture(source, alpha=image_config.alpha, max_pixels=self.max_pixels, fetch=self.fetch)
        found = layout(
            picture.size, config, num_images=num_images, picture_number=picture_number, encode=self._encode
        )
        num_views = len(view_indices(picture.size, image_config, num_images=num_images))
        return PreparedPicture(picture, found, num_views, image_config, num_images, self.max_pixels)

    def _chat_text(self, prompt: Prompt, num_images: int, system: str | None, answer_next: bool) -> str:
        """Return the conversation as the folder's chat template writes it."""
        rules = self.config.prompt_config
        messages = messages_of(
            prompt, num_images, system=system, after_image=rules.after_image, hide=self._controls.hide
        )
        if rules.system is not None and all(message["role"] != "system" for message in messages):
            messages.insert(0, {"role": "system", "content": rules.system})
        if rules.image_part is not None:
            messages = [insert_image_parts(message, rules.image_part) for message in messages]
        return self._render(messages, answer_next)

    def _render(self, messages: Sequence[Mapping[str, Any]], answer_next: bool) -> str:
        from mm1_mlx.inputs.sandbox import render_template

        return render_template(
            self.tokenizer.chat_template,
            messages=[*messages],
            tools=None,
            documents=None,
            add_generation_prompt=answer_next,
            **self.tokenizer.special_tokens_map
            | {"enable_thinking": self.tokenizer.has_thinking},  # as in mlx-lm
        )

    @cached_property
    def _controls(self) -> ControlTokens:
        tokens = {*self._control_texts.values(), *self.tokenizer.all_special_tokens, self.image_token}
        return ControlTokens(tokens, {*self._spelled} - {self.tokenizer.unk_token_id})

    @cached_property
    def _spelled(self) -> dict[int, list[int]]:
        """The ids of the characters of each control token, by its id; a tokenizer may hold the token as a word too."""
        vocabulary = self.tokenizer.get_vocab()
        texts = self._control_texts | {self.config.image_token_id: self.image_token}
        return {
            id: [vocabulary[letter] for letter in text if letter in vocabulary] for id, text in texts.items()
        }

    @cached_property
    def _control_texts(self) -> dict[int, str]:
        return find_control_tokens(self.tokenizer.added_tokens_decoder, self._turns_of_template())

    def _turns_of_template(self) -> str:
        """Return what the chat template writes around turns, and the template itself, which may not take such turns."""
        written = [self.tokenizer.chat_template or ""]
        for roles in (("system", "user", "assistant"), ("user", "assistant")) if written[0] else ():
            with suppress(MM1Error):
                written.append(self._render([{"role": role, "content": "a"} for role in roles], True))
        return "\n".join(written)

    def _encode(self, text: str, as_text: bool = False) -> list[int]:
        """Return the ids of ``text`` alone, without special tokens around it, and with ``as_text`` without any in it."""
        try:
            with TOKENIZING:
                ids = self.tokenizer.encode(
                    text, add_special_tokens=False, verbose=False, split_special_tokens=as_text
                )
            if as_text and not self._spelled.keys().isdisjoint(ids):
                ids = self._spell(ids, text)
            return ids
        except BaseException as error:
            if not is_panic(error):
                raise
            raise PromptError(f"the model's tokenizer fails on this text ({error}).") from None

    def _spell(self, ids: list[int], text: str) -> list[int]:
        """Return ids with the letters of control tokens in their place; an unknown letter of ``text`` stays unknown."""
        unknown = self.tokenizer.unk_token
        kept = self.tokenizer.unk_token_id if unknown is not None and unknown not in text else None
        return [n for id in ids for n in ([id] if id == kept else self._spelled.get(id, [id]))]

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a rendered text, in which control tokens that people wrote stay text."""
        return self._controls.encode(text, self._encode)

    def _tokenize(self, text: str, chat: bool, num_images: int) -> list[int]:
        """Return ids with the image token once for each picture; a chat template writes its own special tokens."""
        cut_at = self.config.prompt_config.cut_at
        special = (self.image_token, self.tokenizer.bos_token, self.tokenizer.eos_token)
        pieces = split_at(text, (*cut_at, *filter(None, special))) if cut_at else [text]
        try:
            ids = [id for piece in pieces for id in self._ids(piece)]
        except (TypeError, UnicodeError):
            raise PromptError("the prompt is not valid Unicode text.") from None
        vocabulary = self.config.text_config.vocab_size
        # A tokenizer may have added tokens that the model never learned.
        if max(ids, default=0) >= vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise PromptError(
                f"the prompt holds {token}, which the model's vocabulary of {vocabulary} has not."
            )
        begin = self.tokenizer.bos_token_id
        if not chat and begin is not None and ids[:1] != [begin]:
            ids = [begin, *ids]
        found = ids.count(self.config.image_token_id)
        if found != num_images:
            raise PromptError(
                f"the tokenised prompt has {found} {self.image_token} for {num_images} pictures; the chat template must "
                "write it once for each picture."
            )
        return ids

    def _expand(self, ids: list[int], layouts: list[Layout]) -> tuple[list[int], list[range]]:
        """Put each picture's part of the sequence in the place of its token."""
        expanded: list[int] = []
        places: list[range] = []
        remaining = iter(layouts)
        for id in ids:
            stretch = next(remaining).ids if id == self.config.image_token_id else [id]
            if id == self.config.image_token_id:
                places.append(range(len(expanded), len(expanded) + len(stretch)))
            expanded += stretch
        return expanded, places
