"""A request: a prompt with its pictures, alone or after worked examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mm1_mlx.arguments import require_type
from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.few_shot import CAPTION, STOP, Shot, few_shot
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import Prompt
from mm1_mlx.settings import Template


@dataclass(frozen=True)
class Request:
    """One prompt; the fields are the arguments of ``stream_generate``."""

    prompt: Prompt | Inputs
    images: Sequence[Source] = ()
    system: str | None = None
    template: Template = "chat"
    stop: Sequence[str] = ()
    num_low_resolution: int = 0

    def __post_init__(self) -> None:
        require_type("stop", self.stop, Sequence[str], PromptError)
        if "" in self.stop:
            raise PromptError("`stop` holds an empty text, which every answer begins with; leave it out.")

    def prepare(self, processor: Processor) -> Inputs:
        """Return the inputs of the model for this request; errors are those of calling the processor."""
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
        """Return a request that asks this question after worked examples, in the same form as they have.

        The answer stops where answers of this form end, and at the request's own stop texts.

        Args:
            shots: worked examples, all of one kind. Without any, the question has the same form, but stands alone.
            low_resolution: encode each picture of the examples as one view.

        Raises:
            PromptError: the request has several pictures, or the examples are captions and it asks for something else.
        """
        if not isinstance(self.prompt, str):
            raise ValueError("worked examples need a prompt of text, not of messages or prepared inputs.")
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
        return Request(few.text, few.images, self.system, "plain", (*self.stop, *STOP[few.kind]), low)
