"""The card of a converted folder: fields for the hub, and words that hold."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from mm1_mlx.checkpoint.card import CardFacts, model_card, source_license

OTHER = {"license": "other", "license_name": "hyperclovax-seed", "license_link": "LICENSE"}
FACTS = CardFacts(
    name="owner/model-mlx",
    source="owner/model",
    checked_with="owner/model",
    base_models=["owner/model"],
    license=OTHER,
    parts={
        "image encoder": "ViT, 378 pixels, patch 14, 27 layers of width 1152",
        "connector": "C-Abstractor, 3 + 3 blocks of width 1152",
        "visual tokens per picture": "81 per sub-image, at most 10 sub-images",
        "decoder": "llama, 32 layers of width 3072",
    },
    dtype="bfloat16",
    bits_per_weight=None,
    untrained=(),
    parity=None,
)
STAGES = [
    {"stage": "vision.hidden_3", "max_abs": 1.23e-6, "max_rel": 1e-5, "tolerance": 1e-4, "passed": True},
    {"stage": "logits", "max_abs": 0.25, "max_rel": 0.1, "tolerance": 1e-3, "passed": False},
]


def front_matter(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def test_the_front_matter_has_the_fields_of_the_hub():
    assert front_matter(model_card(FACTS)) == {
        "library_name": "mlx",
        "pipeline_tag": "image-text-to-text",
        "base_model": ["owner/model"],
        **OTHER,
        "tags": ["mlx", "mm1", "multimodal"],
    }


def test_the_body_tells_source_sizes_and_precision():
    card = model_card(replace(FACTS, bits_per_weight=4.5))
    sizes = (*FACTS.parts, *FACTS.parts.values())
    for words in ("`owner/model` as a model folder", *sizes, "bfloat16, quantized to 4.50 bits per weight"):
        assert words in card
    assert "quantized" not in model_card(FACTS)


def test_an_unknown_base_model_is_left_out():
    assert "base_model" not in front_matter(model_card(replace(FACTS, base_models=[])))


@pytest.mark.parametrize("stated", [OTHER, {"license": "apache-2.0"}, {"license": ["mit", "apache-2.0"]}])
def test_the_licence_of_the_source_is_carried_over(stated, tmp_path):
    fields = yaml.safe_dump({**stated, "tags": ["x"], "language": "ko"})
    (tmp_path / "README.md").write_text(f"---\n{fields}---\n# A model\n")
    assert source_license(tmp_path) == stated
    assert front_matter(model_card(replace(FACTS, license=stated))).items() >= stated.items()


def test_the_name_of_a_licence_links_to_its_text():
    assert "That of the source: [hyperclovax-seed](LICENSE)." in model_card(FACTS)
    both = model_card(replace(FACTS, license={"license": ["mit", "apache-2.0"]}))
    assert "That of the source: mit and apache-2.0." in both


@pytest.mark.parametrize(
    "readme", [None, "# No front matter\n", "---\na: [\n---\n", "---\n- a\n---\n", "---\n---\n"]
)
def test_a_source_without_a_licence_is_said_to_have_none(readme, tmp_path):
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert source_license(tmp_path) == {}
    card = model_card(replace(FACTS, license=source_license(tmp_path)))
    assert "license" not in front_matter(card)
    assert "The source states no licence; look it up before sharing." in card


def test_an_untrained_connector_is_said_in_bold():
    card = model_card(replace(FACTS, untrained=("connector",)))
    assert "**The connector is untrained: answers are noise until trained.**" in card
    assert "untrained" not in model_card(FACTS)


def test_without_a_check_the_card_names_the_command():
    assert "python -m mm1_mlx.convert check DIR --against-torch owner/model\n" in model_card(FACTS)


def test_a_check_is_shown_stage_by_stage():
    card = model_card(
        replace(
            FACTS,
            parity={"reference": "io.safetensors", "dtype": "float32", "stages": STAGES, "passed": False},
        )
    )
    assert "`io.safetensors`, **not every stage is within its tolerance**" in card
    assert "| vision.hidden_3 | 1.2e-06 | 0.0001 | yes |" in card
    assert "| logits | 0.25 | 0.001 | **no** |" in card
    assert "Not checked" not in card


def test_the_examples_of_a_card_run(picture, tmp_path):
    shutil.copyfile(picture, tmp_path / "picture.jpg")
    card = model_card(replace(FACTS, name="mm1-tiny"))
    blocks = dict(re.findall(r"```(bash|python)\n(.*?)```", card.split("## Parity")[0], re.DOTALL))
    commands = ([sys.executable, *shlex.split(blocks["bash"])[1:]], [sys.executable, "-c", blocks["python"]])
    answers = [
        subprocess.run(c, cwd=tmp_path, capture_output=True, text=True, check=True).stdout for c in commands
    ]
    assert answers[0] == answers[1] != "\n"
