"""What a configuration says about prompts beyond the tokenizer's chat template."""

from dataclasses import replace

import numpy as np
import pytest
from small_models import SMALL

from mm1_mlx import load
from mm1_mlx.config import PromptConfig
from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.tiny import IMAGE_ID
from mm1_mlx.tiny.tokenizer import ASSISTANT_ID, BEGIN_ID, END_ID, SYSTEM_ID, USER_ID

PICTURE = np.zeros((8, 8, 3), np.uint8)
T = SMALL.connector_config.num_visual_tokens


@pytest.fixture
def tokenizer(mm1_tiny):
    return mm1_tiny[1].tokenizer


@pytest.fixture
def processor_with(tokenizer):
    """A processor whose configuration says more about prompts."""
    return lambda **rules: Processor(tokenizer, replace(SMALL, prompt_config=PromptConfig(**rules)))


@pytest.fixture
def processor_of_template(tiny_folder):
    """A processor with a chat template of its own."""

    def make(template, **rules):
        (tiny_folder / "chat_template.jinja").write_text(template)
        return Processor(load(tiny_folder)[1].tokenizer, replace(SMALL, prompt_config=PromptConfig(**rules)))

    return make


def ids_of(processor, *args, **options):
    return processor(*args, **options).input_ids.tolist()


def refusal(processor, *args, **options):
    with pytest.raises(PromptError) as error:
        processor(*args, **options)
    return str(error.value)


@pytest.fixture
def encode(tokenizer):
    return lambda *pieces: [
        id for piece in pieces for id in tokenizer.encode(piece, add_special_tokens=False)
    ]


# Cut before tokenising


def test_each_piece_of_a_cut_prompt_is_tokenised_on_its_own(processor_with, encode):
    ids = ids_of(processor_with(cut_at=("cir",)), "red circle", template="plain")
    assert ids == [BEGIN_ID, *encode("red ", "cir", "cle")]
    assert ids != [BEGIN_ID, *encode("red circle")]


def test_a_chat_is_cut_where_its_template_is_done(processor_with, encode):
    ids = ids_of(processor_with(cut_at=("circle<|end|>",)), "red circle")
    assert ids == [BEGIN_ID, USER_ID, *encode("red ", "circle"), END_ID, ASSISTANT_ID]


def test_a_picture_ends_a_piece_too(processor_with, encode):
    ids = ids_of(processor_with(cut_at=("cir",)), "a cir<image>cle", [PICTURE], template="plain")
    assert ids == [BEGIN_ID, *encode("a ", "cir"), *[IMAGE_ID] * T, *encode("cle")]


def test_the_begin_token_comes_once_before_a_cut_prompt(processor_with):
    ids = ids_of(processor_with(cut_at=("cir",)), "<|begin|>circle", template="plain")
    assert ids.count(BEGIN_ID) == 1


def test_a_prompt_is_tokenised_as_a_whole_unless_cuts_are_named(processor_with, encode):
    assert ids_of(processor_with(), "red circle", template="plain") == [BEGIN_ID, *encode("red circle")]


# The system message where none is given


def test_a_default_system_message_comes_first(processor_with):
    ids = ids_of(processor_with(system="Be brief."), "What is it?")
    assert ids == ids_of(processor_with(), "What is it?", system="Be brief.")
    assert ids[1] == SYSTEM_ID


def test_a_given_system_message_replaces_the_default(processor_with):
    ids = ids_of(processor_with(system="Be brief."), "What is it?", system="Be kind.")
    assert ids == ids_of(processor_with(), "What is it?", system="Be kind.")


def test_a_conversations_own_system_message_replaces_the_default(processor_with):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is it?"}]
    assert ids_of(processor_with(system="Be brief."), messages) == ids_of(processor_with(), messages)


def test_an_empty_system_message_replaces_the_default(processor_with):
    ids = ids_of(processor_with(system="Be brief."), "What is it?", system="")
    assert ids == ids_of(processor_with(), "What is it?", system="")


def test_plain_text_gets_no_default_system_message(processor_with):
    ids = ids_of(processor_with(system="Be brief."), "What is it?", template="plain")
    assert ids == ids_of(processor_with(), "What is it?", template="plain")


# Text behind a picture without a place


def test_text_follows_each_picture_without_a_place(processor_with):
    ids = ids_of(processor_with(after_image=" is one. "), "Which?", [PICTURE, PICTURE])
    written = "<image> is one. <image> is one. Which?"
    assert ids == ids_of(processor_with(), written, [PICTURE, PICTURE])


def test_no_text_follows_a_picture_in_its_place(processor_with):
    ids = ids_of(processor_with(after_image=" is one. "), "What is <image>?", [PICTURE])
    assert ids == ids_of(processor_with(), "What is <image>?", [PICTURE])


# Templates that write the image token themselves

PART = {"type": "image_url", "image_url": {"detail": "high"}}
WRITES_IMAGE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image_url' %}[{{ part.image_url.detail }}]WRITTEN{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}<|end|>{% endfor %}"
)


def test_a_template_gets_a_part_for_every_picture(processor_of_template, encode):
    processor = processor_of_template(WRITES_IMAGE.replace("WRITTEN", "<image>"), image_part=PART)
    ids = ids_of(processor, "What is <image>?", [PICTURE])
    assert ids == [*encode("What is [high]"), *[IMAGE_ID] * T, *encode("?"), END_ID]


def test_a_template_gets_text_alone_as_a_part_too(processor_of_template, encode):
    processor = processor_of_template(WRITES_IMAGE, image_part=PART)
    assert ids_of(processor, "What is it?") == [*encode("What is it?"), END_ID]


@pytest.mark.parametrize("written", ["", "<image><image>"])
def test_a_template_that_writes_another_number_of_image_tokens_is_refused(processor_of_template, written):
    processor = processor_of_template(WRITES_IMAGE.replace("WRITTEN", written), image_part=PART)
    assert refusal(processor, "What is <image>?", [PICTURE]) == (
        f"the tokenised prompt has {written.count('<image>')} <image> for 1 pictures; the chat "
        "template must write it once for each picture."
    )


def test_what_a_template_refuses_is_refused_in_its_words(processor_of_template):
    processor = processor_of_template("{{ raise_exception('Roles must alternate.') }}")
    assert refusal(processor, "What is it?") == (
        "the model's chat template refuses these messages: Roles must alternate."
    )
