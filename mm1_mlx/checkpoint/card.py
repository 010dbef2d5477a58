"""Write the README.md of a model folder: what the model is, its licence, and how it was checked."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_mlx.config import MM1Config
from mm1_mlx.files.writing import new_file

TAGS = ["mlx", "mm1", "multimodal"]
LICENSE_KEYS = ("license", "license_name", "license_link")
QUESTION = "What is in the picture?"


@dataclass(frozen=True)
class CardFacts:
    """The facts about a model that its card states."""

    name: str  # what --model takes: a hub id or a folder
    source: str  # what it was made of, as the user named it
    checked_with: (
        str | None
    )  # what `check --against-torch` takes to find the source; None where nothing is the same
    base_models: list[str]  # hub ids of the models it was made of; empty where none is known
    license: dict[str, str | list[str]]  # as ``source_license`` gives it
    parts: dict[str, str]  # as ``describe_parts`` gives them
    dtype: str
    bits_per_weight: float | None  # None where nothing is quantized
    untrained: tuple[str, ...]  # parts with random weights
    parity: dict[str, Any] | None  # what parity.json holds; None before the check


def source_base_models(folder: Path) -> list[str]:
    """Return the hub ids of the models that a folder's card says it was made of."""
    stated = _front_matter_of(folder).get("base_model") or []
    return [stated] if isinstance(stated, str) else [name for name in stated if isinstance(name, str)]


def source_license(folder: Path) -> dict[str, str | list[str]]:
    """Return the licence that the front matter of the source's README.md states; empty where it states none."""
    stated = _front_matter_of(folder)
    return {key: stated[key] for key in LICENSE_KEYS if stated.get(key)} if stated.get("license") else {}


def _front_matter_of(folder: Path) -> dict[str, Any]:
    import yaml
    from huggingface_hub import metadata_load

    try:
        return metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that cannot be read, states nothing
        return {}


def describe_parts(config: MM1Config) -> dict[str, str]:
    """Return what each part of a model is, in words."""
    vision, connector, text = config.vision_config, config.connector_config, config.text_config
    tokens = connector.num_visual_tokens
    return {
        "image encoder": f"ViT, {vision.num_layers} layers of {vision.hidden_dims}, patches of {vision.patch_size} pixels",
        "connector": connector.type,
        "visual tokens per picture": f"{tokens} for a view"
        if tokens
        else "as many as the picture's size asks for",
        "decoder": f"{text.model_type}, {text.hidden_dims} wide, {text.vocab_size:,} tokens",
    }


def model_card(facts: CardFacts) -> str:
    """Return the text of README.md: front matter for the hub, then sizes, an example, licence and parity."""
    sections = (_front_matter(facts), _summary(facts), _example(facts), _license(facts), _parity(facts))
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: CardFacts) -> str:
    from huggingface_hub.utils import yaml_dump

    fields: dict[str, Any] = {"library_name": "mlx", "pipeline_tag": "image-text-to-text"}
    if facts.base_models:
        fields["base_model"] = list(facts.base_models)
    return f"---\n{yaml_dump(fields | facts.license | {'tags': TAGS})}---"


def _summary(facts: CardFacts) -> str:
    rows = "\n".join(f"| {part} | {what} |" for part, what in facts.parts.items())
    bits = (
        "" if facts.bits_per_weight is None else f", quantized to {facts.bits_per_weight:.2f} bits per weight"
    )
    return f"""\
# {facts.name}

`{facts.source}` as a model folder of `mm1_mlx`, which runs it with MLX. It has MM1's architecture
(arXiv:2403.09611) and is not Apple's MM1, whose weights were never published.
{_warning(facts)}
| part | what it is |
| --- | --- |
{rows}
| weights | {facts.dtype}{bits} |"""


def _warning(facts: CardFacts) -> str:
    if not facts.untrained:
        return ""
    verb = "is" if len(facts.untrained) == 1 else "are"
    return (
        f"\n**The {' and the '.join(facts.untrained)} {verb} untrained: answers are noise until trained.**\n"
    )


def _example(facts: CardFacts) -> str:
    return f"""\
## Answer a question

With `mm1_mlx` installed:

```bash
python -m mm1_mlx.generate --model {shlex.quote(facts.name)} --image picture.jpg --prompt "{QUESTION}"
```

```python
from mm1_mlx import generate, load

model, processor = load({json.dumps(facts.name, ensure_ascii=False)})
answer = generate(model, processor, "{QUESTION}", images=["picture.jpg"])
print(answer)
```"""


def _license(facts: CardFacts) -> str:
    if not facts.license:
        return "## Licence\n\nThe source states no licence; look it up before sharing."
    stated = facts.license["license"]
    name = facts.license.get("license_name", stated if isinstance(stated, str) else " and ".join(stated))
    link = facts.license.get("license_link")
    return f"## Licence\n\nThat of the source: {f'[{name}]({link})' if link else name}."


HEADING = "## Parity"


def replace_parity(path: Path, parity: dict[str, Any]) -> None:
    """Replace the last section of a card that ``model_card`` made by a check's result."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    start = text.find(f"\n{HEADING}\n")
    if start >= 0:
        with new_file(path) as temporary:
            temporary.write_text(f"{text[:start]}\n{_checked(parity)}\n", encoding="utf-8")


def _parity(facts: CardFacts) -> str:
    if facts.parity is not None:
        return _checked(facts.parity)
    if facts.checked_with is None:
        return f"{HEADING}\n\nThe weights were trained here: no other model has the same, to compare with."
    if facts.untrained:
        return f"{HEADING}\n\nThe model is new: there is nothing to compare it with."
    check = f"python -m mm1_mlx.convert check DIR --against-torch {shlex.quote(facts.checked_with)}"
    return f"""\
{HEADING}

Not checked against PyTorch. Where DIR is this folder, this checks it:

```bash
{check}
```"""


def _checked(parity: dict[str, Any]) -> str:
    verdicts = {
        True: "every stage is within its tolerance",
        False: "**not every stage is within its tolerance**",
        None: f"in {parity['dtype']}; no tolerance holds for packed or 16-bit numbers, so they are reported",
    }
    rows = "\n".join(_row(row) for row in parity["stages"])
    return f"""\
{HEADING}

Against `{parity["reference"]}`, {verdicts[parity["passed"]]}.

| stage | largest absolute difference, or as named | tolerance | passed |
| --- | --- | --- | --- |
{rows}"""


def _row(row: dict[str, Any]) -> str:
    passed = "yes" if row["passed"] else "**no**"
    judged = f"{row['tolerance']:.2g} | {passed}" if row["tolerance"] is not None else "reported | "
    difference = "not finite" if row["max_abs"] is None else f"{row['max_abs']:.2g}"
    return f"| {row['stage']} | {difference} | {judged} |"
