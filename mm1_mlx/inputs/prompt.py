"""Prompts: text with ``<image>`` where a picture goes, as a question, a conversation or plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Literal, get_args

from mm1_mlx.errors import PromptError

IMAGE = "<image>"
IN_TEXT = re.compile(
    rf"(\\*){IMAGE}"
)  # after an odd number of backslashes it is the word, not a picture's place

Role = Literal["system", "user", "assistant"]
Message = dict[str, Any]  # {"role": …, "content": text, or a list of {"type": "text" | "image", …}}
Prompt = str | list[Message]


def messages_of(
    prompt: Prompt,
    num_images: int,
    *,
    system: str | None = None,
    after_image: str = "",
    hide: Callable[[str], str] = str,
) -> list[Message]:
    """Return ``prompt`` as chat messages whose contents are text, with ``<image>`` in the places of the pictures.

    A string is one user turn. Pictures without a place come before the first user turn's text, in order,
    each followed by ``after_image``. Text that people wrote is passed through ``hide``.

    Raises:
        PromptError: the prompt is empty or malformed, or places and pictures differ in number.
    """
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    messages = [{"role": _role(m), "content": _text(m, hide)} for m in prompt]
    if not any(m["content"].strip() for m in messages):
        raise PromptError("the prompt is empty; ask something with `prompt`.")
    if system is not None:
        messages.insert(0, {"role": "system", "content": hide(system)})
    places = sum(m["content"].count(IMAGE) for m in messages)
    if num_images and not places:
        first = next((m for m in messages if m["role"] == "user"), messages[0])
        first["content"] = (IMAGE + after_image) * num_images + first["content"]
    check_places(places, num_images)
    return messages


def plain_text(prompt: str, num_images: int, *, hide: Callable[[str], str] = str) -> str:
    """Return ``prompt`` unchanged, without a chat template; pictures without a place come first.

    Raises:
        PromptError: as ``messages_of``.
    """
    if not prompt.strip():
        raise PromptError("the prompt is empty; ask something with `prompt`.")
    prompt = hide(prompt)
    places = prompt.count(IMAGE)
    check_places(places, num_images)
    return prompt if places else IMAGE * num_images + prompt


def insert_image_parts(message: Message, image_part: dict[str, Any]) -> Message:
    """Return ``message`` with ``image_part`` for each ``<image>``, for chat templates that write the token themselves."""
    texts = message["content"].split(IMAGE)
    parts: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        parts += [image_part] * (number > 0) + [{"type": "text", "text": text}] * (text != "")
    return message | {"content": parts}


def num_places(text: str) -> int:
    """Return for how many pictures ``text`` has a place; ``\\<image>`` is not one."""
    return sum(len(backslashes) % 2 == 0 for backslashes in IN_TEXT.findall(text))


def unescape(text: str, *, place: str = IMAGE, word: str = IMAGE) -> str:
    """Return ``text`` with ``place`` for each ``<image>`` and ``word`` for each ``\\<image>``.

    Each pair of backslashes before them becomes one, so that a text can hold a backslash and then a picture.
    """

    def read(found: re.Match[str]) -> str:
        pairs, one_more = divmod(len(found[1]), 2)
        return "\\" * pairs + (word if one_more else place)

    return IN_TEXT.sub(read, text)


def remove_places(text: str) -> str:
    """Return the words of ``text`` without the places of pictures; each ``\\<image>`` becomes the word ``<image>``."""
    return unescape(text, place="")


def escape(text: str) -> str:
    """Return ``text`` with each ``<image>`` escaped, so that it is read as the word."""
    return IN_TEXT.sub(lambda found: f"{2 * found[1]}\\{IMAGE}", text)


def join_texts(before: str, after: str) -> str:
    """Join two texts so that backslashes at the end of the first do not escape an ``<image>`` that begins the second."""
    ending = len(before) - len(before.rstrip("\\"))
    return before + "\\" * ending * bool(IN_TEXT.match(after)) + after


def split_at(text: str, at: Sequence[str]) -> list[str]:
    """Split ``text`` before and after each of ``at``; nothing is lost, and no piece is empty."""
    pattern = "|".join(re.escape(mark) for mark in sorted(at, key=len, reverse=True))
    return [piece for piece in re.split(f"({pattern})", text) if piece]


def check_places(places: int, num_images: int) -> None:
    """Refuse a prompt whose ``<image>`` and pictures differ in number, unless it has no ``<image>`` at all."""
    if places and places != num_images:
        was = "was" if num_images == 1 else "were"
        raise PromptError(f"the prompt has {places} {IMAGE} but {num_images} `image` {was} given.")


def _role(message: Message) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if role is None or role not in get_args(Role):
        raise PromptError(f"a message has role {role!r}, expected system, user or assistant.")
    return role


def _text(message: Message, hide: Callable[[str], str]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return hide(content)
    if not isinstance(content, list):
        raise PromptError(f"a message's content is {content!r}, expected text or a list of parts.")
    stretches = groupby(map(_part, content), key=lambda text: text is None)
    return "".join(
        IMAGE * len(list(texts)) if pictures else hide("".join(filter(None, texts)))
        for pictures, texts in stretches
    )


def _part(part: Any) -> str | None:
    """Return the text of a part of a message, or None for a picture."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise PromptError(f'a part of a message is {part!r}, expected {{"type": "image"}} or text.')
