"""Check that a prompt fits the model's context; if not, say what each part of it costs and what to lower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from mm1_mlx.errors import PromptError


@dataclass(frozen=True)
class PictureCost:
    """The tokens that one picture takes of the context, with its size and views for a message about them."""

    tokens: int  # position tags and tokens between rows included
    num_views: int = 1
    size: tuple[int, int] | None = None  # pixels; None: not opened yet, and ``tokens`` is the least

    def __str__(self) -> str:
        if self.size is None:
            return f"at least {self.tokens:,}"
        views = "1 view" if self.num_views == 1 else f"{self.num_views} views"
        return f"{self.tokens:,} ({self.size[0]} x {self.size[1]} pixels, {views})"


def require_context(
    context: int | None,
    num_text: int,
    pictures: Sequence[PictureCost],
    messages: Callable[[], Sequence[tuple[str, int]]],
) -> None:
    """Refuse a prompt that leaves no room for an answer in the model's context.

    Args:
        context: the model's context in tokens; None where it has no limit.
        num_text: number of text tokens.
        pictures: cost of each picture, in reading order.
        messages: returns (name, tokens) of each message, where there are several; called only to refuse the prompt.

    Raises:
        PromptError: the prompt is as long as the context or longer.
    """
    visual = sum(picture.tokens for picture in pictures)
    if context is None or num_text + visual < context:
        return
    named = ", ".join(f"{name} {tokens:,}" for name, tokens in messages())
    costs = [f"text {num_text:,}" + f" ({named})" * bool(named)]
    for cost, group in groupby(range(len(pictures)), lambda number: str(pictures[number])):
        first, *others = (number + 1 for number in group)
        costs.append(
            f"pictures {first} to {others[-1]}: {cost} each" if others else f"picture {first}: {cost}"
        )
    advice = []
    if num_text > visual:
        advice.append("shorten the text")
    if any(picture.num_views > 1 for picture in pictures):
        advice.append("cut pictures into fewer sub-images (`sub_images`, `max_sub_images`)")
    if len(pictures) > 1:
        advice.append("give fewer pictures or shots")
    if not advice:
        advice.append("shorten the text or lower `image_size`")
    raise PromptError(
        f"the prompt is {num_text + visual:,} tokens, but the model's context is {context:,}, answer included. "
        f"It costs: {'; '.join(costs)}. To make room, {', or '.join(advice)}."
    )
