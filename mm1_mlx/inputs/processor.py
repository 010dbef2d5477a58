"""The processor: a prompt and its pictures to what the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Integer
from PIL import Image

from mm1_mlx.config import MM1Config
from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.picture import Source, open_picture
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.prompt import IMAGE, Message, Prompt, messages_of, plain_text
from mm1_mlx.inputs.sub_images import views
from mm1_mlx.settings import MAX_PICTURE_PIXELS


@dataclass(frozen=True)
class Inputs:
    """One prompt, ready for the model."""

    input_ids: Integer[mx.array, "L"]  # image_token_id once for every visual token
    pixel_values: Float[mx.array, "N H W 3"]  # all views of all pictures, in reading order; N may be 0
    image_places: list[range]  # for each picture, the positions of its visual tokens

    @property
    def num_visual_tokens(self) -> int:
        return sum(len(places) for places in self.image_places)


class Processor:
    """Turns prompts and pictures into ``Inputs``; everything it needs is in the model folder.

    Args:
        tokenizer: mlx-lm's wrapper of the folder's tokenizer.
        config: the model's configuration.
        max_pixels: larger pictures are refused before they are decoded.
    """

    def __init__(self, tokenizer: Any, config: MM1Config, *, max_pixels: int = MAX_PICTURE_PIXELS):
        self.tokenizer = tokenizer
        self.config = config
        self.max_pixels = max_pixels

    @property
    def image_token(self) -> str:
        """The token that stands for a picture once a prompt is tokenised."""
        return self.tokenizer.convert_ids_to_tokens(self.config.image_token_id)

    def __call__(
        self,
        prompt: Prompt,
        images: Sequence[Source] = (),
        *,
        system: str | None = None,
        template: Literal["chat", "plain"] = "chat",
    ) -> Inputs:
        """Prepare one prompt.

        Args:
            prompt: a question, or a list of chat messages; ``<image>`` stands where a picture goes.
            images: the pictures in reading order; without any ``<image>`` they come first.
            system: a system message before the conversation.
            template: "chat" renders the folder's chat template, where it has one; "plain" takes a
                string as it stands, as MM1's few-shot prompts are.

        Raises:
            PromptError: places and pictures differ in number, or the prompt is longer than the context.
            PictureError: a picture cannot be opened.
        """
        chat = template == "chat" and bool(self.tokenizer.chat_template)
        ids = self._tokenize(self._render(prompt, len(images), system, template, chat), chat, len(images))
        each = self.config.connector_config.tokens_per_image
        self._check_context(len(ids) - len(images), each * len(images), len(images))  # before any is opened
        squares = [self._views(source) for source in images]
        ids, places = self._expand(ids, [each * len(s) for s in squares])
        visual = sum(map(len, places))
        self._check_context(len(ids) - visual, visual, len(places))
        return Inputs(mx.array(ids, dtype=mx.int32), self._pixels(squares), places)

    def _views(self, source: Source) -> list[Image.Image]:
        """One picture's views; the picture itself, which may be large, is let go."""
        image_config = self.config.image_config
        picture = open_picture(source, alpha=image_config.alpha, max_pixels=self.max_pixels)
        return views(picture, image_config, max_pixels=self.max_pixels)

    def _render(self, prompt: Prompt, num_images: int, system: str | None, template: str, chat: bool) -> str:
        """The prompt's text, with the image token once for every picture."""
        if chat:
            messages = messages_of(prompt, num_images, system=system)
            text = self._apply_template(messages)
        elif isinstance(prompt, str):
            text = plain_text(prompt, num_images)
            text = text if system is None else f"{system}\n{text}"
        else:
            why = "the template is plain" if template == "plain" else "this model has no chat template"
            raise PromptError(f"{why}; give the prompt as one string.")
        return text.replace(IMAGE, self.image_token)

    def _apply_template(self, messages: list[Message]) -> str:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise PromptError(f"the model's chat template refuses these messages: {error}") from None

    def _tokenize(self, text: str, chat: bool, num_images: int) -> list[int]:
        """Ids with the image token once a picture; a chat template writes its own special tokens."""
        try:
            ids = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        except (TypeError, UnicodeError):
            raise PromptError("the prompt is not valid Unicode text.") from None
        begin = self.tokenizer.bos_token_id
        if not chat and begin is not None and ids[:1] != [begin]:
            ids = [begin, *ids]
        found = ids.count(self.config.image_token_id)
        if found != num_images:
            raise PromptError(
                f"the tokenised prompt has {found} {self.image_token} for {num_images} pictures; the text "
                f"itself must not hold {self.image_token}."
            )
        return ids

    def _expand(self, ids: list[int], lengths: list[int]) -> tuple[list[int], list[range]]:
        """Repeat each picture's token once for every visual token."""
        token = self.config.image_token_id
        expanded: list[int] = []
        places: list[range] = []
        remaining = iter(lengths)
        for id in ids:
            if id != token:
                expanded.append(id)
                continue
            length = next(remaining)
            places.append(range(len(expanded), len(expanded) + length))
            expanded += [token] * length
        return expanded, places

    def _check_context(self, text: int, visual: int, num_images: int) -> None:
        """Refuse a prompt that leaves no room for an answer; counts are tokens."""
        context = self.config.text_config.max_positions
        if context is None or text + visual < context:
            return
        pictures = "picture" if num_images == 1 else "pictures"
        raise PromptError(
            f"the prompt is {text + visual:,} tokens ({text:,} of text, {visual:,} of {num_images} {pictures}), "
            f"but the model's context is {context:,}, answer included; shorten the text or give fewer pictures."
        )

    def _pixels(self, squares: list[list[Image.Image]]) -> mx.array:
        flat = [square for picture in squares for square in picture]
        size = self.config.image_config.image_size
        if not flat:
            return mx.zeros((0, size, size, 3))
        return mx.array(np.ascontiguousarray(normalize(flat, self.config.image_config)))
