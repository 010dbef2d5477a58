"""A chat template is found wherever publishers keep one, in transformers' order."""

import json
import shutil

import pytest
from transformers import AutoTokenizer, ProcessorMixin

from mm1_mlx import load, save
from mm1_mlx.checkpoint.chat_template import find_chat_template
from mm1_mlx.errors import CheckpointError

IN_JSON = ("processor_config.json", "chat_template.json", "tokenizer_config.json")


def put(folder, place, template):
    """Put a template into a place, beside what is there."""
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    if place in IN_JSON:
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(values | {"chat_template": template}))
    else:
        path.write_text(template)


@pytest.fixture
def bare(tiny_folder):
    """Return the shipped model's folder without a chat template."""
    (tiny_folder / "chat_template.jinja").unlink()
    return tiny_folder


@pytest.mark.parametrize(
    ("place", "template"),
    [
        (place, "{{ 1 }}")
        for place in (*IN_JSON, "chat_template.jinja", "additional_chat_templates/default.jinja")
    ]
    + [
        (
            "tokenizer_config.json",
            [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "{{ 1 }}"}],
        ),
        ("tokenizer_config.json", {"tool_use": "t", "default": "{{ 1 }}"}),
    ],
)
def test_a_template_is_read_in_every_place_and_kept_by_saving(place, template, bare, tmp_path):
    put(bare, place, template)
    model, processor = load(bare)
    assert processor.tokenizer.chat_template == "{{ 1 }}"
    save(model, tmp_path / "copy", companions=bare)
    assert (tmp_path / "copy" / "chat_template.jinja").read_text() == "{{ 1 }}"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # transformers leaves files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_order_is_that_of_transformers(bare):
    assert find_chat_template(bare) is None
    places = [
        *("tokenizer_config.json", "additional_chat_templates/default.jinja", "chat_template.jinja"),
        *("chat_template.json", "processor_config.json"),
    ]
    for place in places:
        put(bare, place, place)
        assert find_chat_template(bare) == place
        if place == "chat_template.json":  # which transformers takes beside no folder of templates alone
            shutil.rmtree(bare / "additional_chat_templates")
        if place == "tokenizer_config.json":
            theirs = AutoTokenizer.from_pretrained(bare).chat_template
        else:
            values, _ = ProcessorMixin.get_processor_dict(bare)
            theirs = values["chat_template"]
        assert theirs == place


def test_named_templates_without_a_default_are_refused(bare):
    put(bare, "tokenizer_config.json", [{"name": "tool_use", "template": "t"}])
    with pytest.raises(CheckpointError, match=r"holds 'tool_use', expected a text or one named 'default'\."):
        load(bare)


def test_a_model_without_a_template_says_how_it_reads_prompts(bare, capsys):
    load(bare)
    assert capsys.readouterr().err == f"mm1: {bare} has no chat template: prompts are read as plain text.\n"


def test_a_mark_of_byte_order_is_no_part_of_a_template(bare):
    (bare / "chat_template.jinja").write_text("\ufeff{{ 1 }}")
    assert find_chat_template(bare) == "{{ 1 }}"


@pytest.mark.parametrize("text", ['{"default": "{{ 1 }}"}', "[]", '"{{ 1 }}"', '{"chat_template": null}'])
def test_a_file_of_a_template_that_holds_none_is_refused(text, bare):
    (bare / "chat_template.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"chat_template.json has no key chat_template"):
        load(bare)
