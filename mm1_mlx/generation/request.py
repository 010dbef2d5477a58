"""What is asked: a prompt with its pictures, alone or behind worked examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.few_shot import CAPTION, STOP, Shot, few_shot
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import Prompt


@dataclass(frozen=True)
class Request:
    """One prompt; the fields are the arguments of ``stream_generate``."""

    prompt: Prompt | Inputs
    images: Sequence[Source] = ()
    system: str | None = None
    template: Literal["chat", "plain"] = "chat"
    stop: Sequence[str] = ()
    num_low_resolution: int = 0

    def prepare(self, processor: Processor) -> Inputs:
        """Return what the model reads of it; errors are the processor's."""
        if isinstance(self.prompt, Inputs):
            return self.prompt
        return processor(
            self.prompt,
            self.images,
            system=self.system,
            template=self.template,
            num_low_resolution=self.num_low_resolution,
        )

    def behind(self, shots: Sequence[Shot], *, low_resolution: bool = False) -> Request:
        """Put the question behind worked examples, in their form; it ends where their kind of answer does.

        Args:
            shots: of one kind; of none, the question stands alone, as one of theirs would.
            low_resolution: of the examples' pictures there is one view each.

        Raises:
            PromptError: it has several pictures, or the examples are captions and it asks for something else.
        """
        if len(self.images) > 1:
            raise PromptError(
                f"{len(self.images)} pictures were given; with `shots` the question is about one."
            )
        captions = bool(shots) and shots[0].caption is not None
        if captions and self.prompt.strip() != CAPTION:
            raise PromptError(f"the shots are captions; ask for one with `prompt` {CAPTION!r}.")
        image = self.images[0] if self.images else None
        few = few_shot(shots, Shot(image=image, question=None if captions else self.prompt))
        low = few.num_low_resolution if low_resolution else 0
        return Request(few.text, few.images, self.system, "plain", STOP[few.kind], low)
