"""Text is text: control tokens that people write in a prompt stay words.

``<|end|>`` in a question would end a turn if it were tokenised like the chat template's own ``<|end|>``. So control
tokens in people's text are marked before the template is rendered, and marked ones are tokenised as ordinary text, as
transformers does with ``split_special_tokens``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mm1_mlx.inputs.prompt import IMAGE, unescape

MARK = "\ufdd0"  # a code point that Unicode sets aside for use inside a program
FIRST = 0xE000  # a mark is followed by a private character that numbers the token

Encode = Callable[..., list[int]]  # takes text, and whether control tokens in it are text; returns ids


def find_control_tokens(added: Mapping[int, Any], template: str) -> dict[int, str]:
    """Return the control tokens of a tokenizer by id: special ones, and others with which a template builds turns.

    Some publishers forget to call ``<|user|>`` special. Tags in pairs, such as ``<think>`` and ``</think>``, may
    stand in answers, so they count only where they are called special.

    Args:
        added: the tokenizer's added tokens, of transformers' type, by id.
        template: its chat template, and what that writes around turns.
    """
    texts = {id: str(token) for id, token in added.items()}
    pairs = {text.replace("</", "<", 1) for text in texts.values() if text.startswith("</")}

    def builds_turns(text: str) -> bool:
        return bool(text.strip()) and text in template and text.replace("</", "<", 1) not in pairs

    return {id: text for id, text in texts.items() if added[id].special or builds_turns(text)}


class ControlTokens:
    """The control tokens of one tokenizer.

    Args:
        tokens: their texts, including that of the image token.
        ids: the ids of those that only structure has.
    """

    def __init__(self, tokens: Iterable[str], ids: Iterable[int] = ()):
        self._ids = frozenset(ids)
        self._tokens = sorted({*tokens} - {IMAGE, ""}, key=len, reverse=True)
        self._hidden = [IMAGE, MARK, *self._tokens]
        self._any = re.compile("|".join(map(re.escape, self._hidden[1:])))
        own = sorted({*self._tokens, *tokens}, key=len, reverse=True)
        self._own = re.compile(f"({'|'.join(map(re.escape, own))})" if own else r"(?!)()")

    def hide(self, text: str) -> str:
        """Return ``text`` with each control token marked, and ``\\<image>`` as the word that it stands for."""
        text = self._any.sub(lambda found: MARK + chr(FIRST + self._hidden.index(found[0])), text)
        return unescape(text, word=MARK + chr(FIRST))

    def encode(self, text: str, encode: Encode) -> list[int]:
        """Return the ids of ``text``, where only unmarked control tokens become control tokens.

        Args:
            text: a rendered prompt, or a piece of one.
            encode: returns the ids of a text; with True as second argument, control tokens in it are text.
        """
        if MARK not in text:
            ids = encode(text, False)
            if sum(id in self._ids for id in ids) <= len(self._own.findall(text)):
                return ids  # else normalisation made a control token of what people wrote
        ids = []
        for number, piece in enumerate(self._own.split(text)):
            if piece:
                ids += encode(piece, False) if number % 2 else encode(self._unmark(piece), True)
        return ids

    def _unmark(self, text: str) -> str:
        """Return ``text`` with the control tokens in place of their marks."""
        return re.sub(f"{MARK}(.)", lambda found: self._hidden[ord(found[1]) - FIRST], text)
