"""The processor: a prompt and its pictures to what the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Integer

from mm1_mlx.config import MM1Config
from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.picture import Source, open_picture
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.prompt import IMAGE, Prompt, messages_of, plain_text
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
        text = self._render(prompt, len(images), system, template)
        pictures = [
            open_picture(source, alpha=self.config.image_config.alpha, max_pixels=self.max_pixels)
            for source in images
        ]
        squares = [views(picture, self.config.image_config) for picture in pictures]
        each = self.config.connector_config.tokens_per_image
        ids, places = self._expand(self._encode(text, template), [each * len(s) for s in squares])
        self._check_context(len(ids), places)
        return Inputs(mx.array(ids, dtype=mx.int32), self._pixels(squares), places)

    def _render(self, prompt: Prompt, num_images: int, system: str | None, template: str) -> str:
        if template == "plain" or not self.tokenizer.chat_template:
            if not isinstance(prompt, str):
                why = "the template is plain" if template == "plain" else "this model has no chat template"
                raise PromptError(f"{why}; give the prompt as one string.")
            text = plain_text(prompt, num_images)
            text = text if system is None else f"{system}\n{text}"
        else:
            messages = messages_of(prompt, num_images, system=system)
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text.replace(IMAGE, self.image_token)

    def _encode(self, text: str, template: str) -> list[int]:
        """Ids with the image token once a picture; a chat template writes its own special tokens."""
        ids = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        begin = self.tokenizer.bos_token_id
        plain = template == "plain" or not self.tokenizer.chat_template
        return [begin, *ids] if plain and begin is not None and ids[:1] != [begin] else ids

    def _expand(self, ids: list[int], lengths: list[int]) -> tuple[list[int], list[range]]:
        """Repeat each picture's token once for every visual token."""
        token = self.config.image_token_id
        if ids.count(token) != len(lengths):
            raise PromptError(
                f"the tokenised prompt has {ids.count(token)} {self.image_token} for {len(lengths)} "
                f"pictures; the text itself must not hold {self.image_token}."
            )
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

    def _check_context(self, length: int, places: list[range]) -> None:
        context = self.config.text_config.max_positions
        if context is None or length < context:
            return
        visual, pictures = sum(map(len, places)), "picture" if len(places) == 1 else "pictures"
        raise PromptError(
            f"the prompt is {length:,} tokens ({length - visual:,} of text, {visual:,} of {len(places)} "
            f"{pictures}), but the model's context is {context:,}, answer included; shorten the text or "
            "give fewer pictures."
        )

    def _pixels(self, squares: list[list[Any]]) -> mx.array:
        flat = [square for picture in squares for square in picture]
        size = self.config.image_config.image_size
        if not flat:
            return mx.zeros((0, size, size, 3))
        return mx.array(np.ascontiguousarray(normalize(flat, self.config.image_config)))
