from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer
from PIL import Image

from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.errors import PictureError, PromptError
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.sub_images import best_canvas, views
from mm1_mlx.presets import preset
from mm1_mlx.tiny import IMAGE_ID, PAD_ID, train_tokenizer
from mm1_mlx.tiny.tokenizer import ASSISTANT_ID, BEGIN_ID, END_ID, SYSTEM_ID, USER_ID

CONFIG = preset("mm1-tiny")
EACH = CONFIG.connector_config.num_visual_tokens  # visual tokens of one view
SIZE = CONFIG.image_config.image_size


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """Learned from fewer scenes than the shipped one, to be quick."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, num_scenes=300)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    return load_tokenizer(tokenizer_folder)


@pytest.fixture
def processor(tokenizer):
    return Processor(tokenizer, CONFIG)


@pytest.fixture
def processor_without_template(tokenizer_folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tokenizer_folder / name).read_bytes())
    return Processor(load_tokenizer(tmp_path), CONFIG)


def noise(seed, width=40, height=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def with_sub_images(tokenizer, **options):
    return Processor(tokenizer, replace(CONFIG, image_config=replace(CONFIG.image_config, **options)))


def with_context(tokenizer, max_positions):
    text_config = replace(CONFIG.text_config, max_positions=max_positions)
    return Processor(tokenizer, replace(CONFIG, text_config=text_config))


def refusal(processor, *args, **options):
    with pytest.raises(PromptError) as error:
        processor(*args, **options)
    return str(error.value)


def without_visual_tokens(ids):
    return [id for id in ids if id != IMAGE_ID]


# Ids and places


def test_a_picture_is_its_token_once_a_visual_token(processor):
    inputs = processor("What is <image>?", [noise(0)])
    assert inputs.input_ids.tolist().count(IMAGE_ID) == EACH
    assert inputs.num_visual_tokens == EACH


def test_the_text_around_a_picture_is_as_without_it(processor):
    ids = processor("What is <image>?", [noise(0)]).input_ids.tolist()
    encode = processor.tokenizer.encode
    expected = [
        *(BEGIN_ID, USER_ID),
        *encode("What is ", add_special_tokens=False),
        *encode("?", add_special_tokens=False),
        *(END_ID, ASSISTANT_ID),
    ]
    assert without_visual_tokens(ids) == expected


def test_image_places_are_where_the_visual_tokens_stand(processor):
    inputs = processor("<image> or <image>? <image>", [noise(0), noise(1), noise(2)])
    ids = inputs.input_ids.tolist()
    assert [len(places) for places in inputs.image_places] == [EACH] * 3
    covered = [position for places in inputs.image_places for position in places]
    assert covered == [position for position, id in enumerate(ids) if id == IMAGE_ID]


def test_places_of_neighbours_do_not_run_together(processor):
    inputs = processor("Which is larger?", [noise(0), noise(1)])
    start = 2  # after <|begin|> and <|user|>
    assert inputs.image_places == [range(start, start + EACH), range(start + EACH, start + 2 * EACH)]


def test_pictures_without_a_place_stand_before_the_question(processor):
    images = [noise(0), noise(1)]
    implied = processor("Which is larger?", images)
    written = processor("<image><image>Which is larger?", images)
    assert implied.input_ids.tolist() == written.input_ids.tolist()


def test_a_prompt_without_pictures_has_no_visual_tokens(processor):
    inputs = processor("How many colours are there?")
    assert IMAGE_ID not in inputs.input_ids.tolist()
    assert inputs.image_places == []
    assert inputs.num_visual_tokens == 0


def test_extra_tokens_of_the_connector_get_places_too(tokenizer):
    connector_config = replace(CONFIG.connector_config, num_extra_tokens=2)
    processor = Processor(tokenizer, replace(CONFIG, connector_config=connector_config))
    assert processor("What is it?", [noise(0)]).num_visual_tokens == EACH + 2


def test_ids_are_32_bit_integers(processor):
    assert processor("What is it?").input_ids.dtype == mx.int32


# Chat and plain text


def test_a_chat_prompt_ends_where_the_answer_begins(processor):
    ids = processor("What is it?").input_ids.tolist()
    assert ids[:2] == [BEGIN_ID, USER_ID]
    assert ids[-2:] == [END_ID, ASSISTANT_ID]
    assert ids.count(BEGIN_ID) == 1


def test_a_system_message_comes_first(processor):
    ids = processor("What is it?", system="Be brief.").input_ids.tolist()
    assert ids[:2] == [BEGIN_ID, SYSTEM_ID]
    assert ids.index(SYSTEM_ID) < ids.index(USER_ID)


def test_a_conversation_keeps_its_turns(processor):
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "And <image>?"},
    ]
    ids = processor(messages, [noise(0), noise(1)]).input_ids.tolist()
    roles = [id for id in ids if id in (SYSTEM_ID, USER_ID, ASSISTANT_ID)]
    assert roles == [USER_ID, ASSISTANT_ID, USER_ID, ASSISTANT_ID]
    assert ids.count(IMAGE_ID) == 2 * EACH


def test_plain_text_is_the_begin_token_and_the_text(processor):
    text = "<image> a cat\n<image>"
    ids = processor(text, [noise(0), noise(1)], template="plain").input_ids.tolist()
    middle = processor.tokenizer.encode(" a cat\n", add_special_tokens=False)
    assert ids == [BEGIN_ID, *[IMAGE_ID] * EACH, *middle, *[IMAGE_ID] * EACH]


def test_plain_text_that_has_the_begin_token_gets_no_second(processor):
    ids = processor("<|begin|>a cat", template="plain").input_ids.tolist()
    assert ids[0] == BEGIN_ID
    assert ids.count(BEGIN_ID) == 1


def test_a_system_message_stands_before_plain_text(processor):
    together = processor("Be brief.\nWhat is it?", template="plain")
    apart = processor("What is it?", system="Be brief.", template="plain")
    assert apart.input_ids.tolist() == together.input_ids.tolist()


def test_a_model_without_a_chat_template_takes_plain_text(processor, processor_without_template):
    ids = processor_without_template("What is it?", [noise(0)]).input_ids.tolist()
    assert ids == processor("What is it?", [noise(0)], template="plain").input_ids.tolist()


def test_a_conversation_needs_a_chat_template(processor_without_template):
    message = refusal(processor_without_template, [{"role": "user", "content": "What is it?"}])
    assert message == "this model has no chat template; give the prompt as one string."


def test_a_conversation_is_not_plain_text(processor):
    message = refusal(processor, [{"role": "user", "content": "What is it?"}], template="plain")
    assert message == "the template is plain; give the prompt as one string."


# Pixels


def test_pixels_are_one_square_a_picture_in_reading_order(processor):
    pictures = [noise(0), noise(1, 300, 20), noise(2, 1, 1)]
    pixels = processor("Which is larger?", pictures).pixel_values
    assert pixels.shape == (3, SIZE, SIZE, 3)
    for pixel_values, picture in zip(pixels, pictures, strict=True):
        squares = views(Image.fromarray(picture), CONFIG.image_config)
        np.testing.assert_array_equal(np.array(pixel_values), normalize(squares, CONFIG.image_config)[0])


def test_without_pictures_pixels_are_empty(processor):
    assert processor("What is it?").pixel_values.shape == (0, SIZE, SIZE, 3)


def test_pixels_are_32_bit_floats(processor):
    for images in ([], [noise(0)]):
        assert processor("What is it?", images).pixel_values.dtype == mx.float32


def test_the_configs_alpha_decides_what_is_under_transparent_pixels(tokenizer):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    for alpha, expected in (("white", 1), ("drop", -1)):
        pixels = with_sub_images(tokenizer, alpha=alpha)("What is it?", [clear]).pixel_values
        np.testing.assert_array_equal(np.array(pixels), np.full((1, SIZE, SIZE, 3), expected, np.float32))


# Sub-images


def test_quadrants_are_five_views_and_their_tokens(tokenizer):
    processor = with_sub_images(tokenizer, sub_images="quadrants")
    inputs = processor("<image> or <image>?", [noise(0), noise(1)])
    assert inputs.pixel_values.shape == (10, SIZE, SIZE, 3)
    assert [len(places) for places in inputs.image_places] == [5 * EACH, 5 * EACH]
    assert inputs.input_ids.tolist().count(IMAGE_ID) == 10 * EACH


def test_views_keep_their_order_within_a_picture(tokenizer):
    processor = with_sub_images(tokenizer, sub_images="quadrants")
    config = processor.config.image_config
    pixels = processor("What is it?", [noise(0)]).pixel_values
    np.testing.assert_array_equal(
        np.array(pixels), normalize(views(Image.fromarray(noise(0)), config), config)
    )


def test_anyres_views_and_tokens_go_by_the_size_of_each_picture(tokenizer):
    processor = with_sub_images(tokenizer, sub_images="anyres", max_sub_images=4)
    sizes = [(SIZE, SIZE), (4 * SIZE, SIZE), (2 * SIZE, 2 * SIZE)]
    inputs = processor("Compare.", [noise(i, *size) for i, size in enumerate(sizes)])
    canvases = [best_canvas(size, processor.config.image_config) for size in sizes]
    num_views = [1 + np.prod(canvas) // SIZE**2 for canvas in canvases]
    assert num_views == [2, 5, 5]
    assert inputs.pixel_values.shape == (12, SIZE, SIZE, 3)
    assert [len(places) for places in inputs.image_places] == [2 * EACH, 5 * EACH, 5 * EACH]


# What is refused


def test_more_places_than_pictures_are_refused(processor):
    message = refusal(processor, "<image> or <image>?", [noise(0)])
    assert message == "the prompt has 2 <image> but 1 `image` was given."


def test_pictures_are_counted_before_they_are_opened(processor):
    message = refusal(processor, "What is <image>?", ["no-such.png", "no-such.png"])
    assert message == "the prompt has 1 <image> but 2 `image` were given."


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_an_image_token_typed_in_the_text_is_a_word(tokenizer, template):
    processor = Processor(tokenizer, replace(CONFIG, image_token_id=PAD_ID))
    ids = processor("What is <image> beside <|pad|>?", [noise(0)], template=template).input_ids.tolist()
    assert ids.count(PAD_ID) == EACH
    assert "beside <|pad|>?" in tokenizer.decode(ids)


def test_a_places_token_may_have_another_name(tokenizer):
    processor = Processor(tokenizer, replace(CONFIG, image_token_id=PAD_ID))
    ids = processor("What is <image>?", [noise(0)]).input_ids.tolist()
    assert ids.count(PAD_ID) == EACH
    assert IMAGE_ID not in ids


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(tokenizer):
    processor = with_context(tokenizer, 64)
    text = "a cat " * 20
    num_text = 1 + len(tokenizer.encode(text, add_special_tokens=False))
    message = refusal(processor, text, [noise(0), noise(1)], template="plain")
    assert message == (
        f"the prompt is {num_text + 2 * EACH:,} tokens, but the model's context is 64, answer included. "
        f"It costs: text {num_text}; pictures 1 to 2: at least {EACH} each. "
        "To make room, shorten the text, or give fewer pictures or shots."
    )


def test_thousands_in_the_context_message_are_parted(processor):
    message = refusal(processor, "Compare.", [noise(0)] * 100)
    assert "the prompt is 1,6" in message
    assert "the model's context is 1,024," in message


def test_a_prompt_must_leave_room_for_one_token(tokenizer):
    length = len(with_context(tokenizer, 1024)("What is it?", [noise(0)]).input_ids)
    assert len(with_context(tokenizer, length + 1)("What is it?", [noise(0)]).input_ids) == length
    assert f"the prompt is {length} tokens" in refusal(
        with_context(tokenizer, length), "What is it?", [noise(0)]
    )


def test_a_decoder_without_a_context_takes_any_length(tokenizer):
    text_config = MlxLmDecoderConfig(
        {"model_type": "llama", "hidden_size": CONFIG.text_config.hidden_dims, "vocab_size": 768}
    )
    processor = Processor(tokenizer, replace(CONFIG, text_config=text_config))
    assert processor("Compare.", [noise(0)] * 100).num_visual_tokens == 100 * EACH


def test_a_picture_over_the_processors_limit_is_refused(tokenizer, tmp_path):
    path = tmp_path / "cat.png"
    Image.fromarray(noise(0)).save(path)
    with pytest.raises(PictureError, match=r"40 x 30 = 1,200 pixels.*limit of 1,199"):
        Processor(tokenizer, CONFIG, max_pixels=1199)("What is it?", [path])
