"""Each turn answers as the whole prompt would, costs its new tokens alone, and survives mistakes."""

import base64
import json

import pytest

import mm1_mlx
from mm1_mlx import Sampling, generate, tiny
from mm1_mlx.errors import CheckpointError, MM1Error, PictureError, PromptError, SamplingError
from mm1_mlx.generation import Decoding
from mm1_mlx.generation.conversation import Conversation
from mm1_mlx.inputs.few_shot import Shot
from mm1_mlx.vision.cache import VisionCache

FIRST, SECOND = "What do you see?", "What is in the middle?"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two picture files of unseen scenes."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / "one.png", folder / "two.png"]
    for number, path in enumerate(paths):
        tiny.render(tiny.make_scene(tiny.TESTING_SEEDS + number)).save(path)
    return paths


@pytest.fixture
def chat(mm1_tiny):
    return Conversation(*mm1_tiny, model_name="mm1-tiny", decoding=Decoding(max_tokens=24))


def ask(chat, text):
    pieces = list(chat.ask(text))
    return "".join(piece.text for piece in pieces), pieces[-1].timing


def turns(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def state(chat):
    return list(chat.messages), list(chat.pictures), list(chat.waiting), chat.system


# Turns


def test_a_second_turn_encodes_nothing_and_reads_its_new_tokens_alone(chat, files, mm1_tiny):
    chat.attach(files[0])
    _, first = ask(chat, FIRST)
    assert (first.encoded_views, first.prefilled_tokens) == (1, first.prompt_tokens)
    _, second = ask(chat, SECOND)
    new_tokens = second.prompt_tokens - first.prompt_tokens - first.generation_tokens
    assert second.encoded_views == 0 and second.prefilled_tokens < new_tokens + 2


def test_a_second_turn_answers_as_the_whole_prompt_does(chat, files, mm1_tiny):
    chat.attach(files[0])
    answer, _ = ask(chat, FIRST)
    again, _ = ask(chat, SECOND)
    assert chat.messages == turns(f"<image>{FIRST}", answer, SECOND, again)
    assert again == generate(*mm1_tiny, chat.messages[:3], images=files[:1], max_tokens=24)


def test_a_later_picture_stands_in_its_turn_and_is_encoded_alone(chat, files, mm1_tiny):
    chat.attach(files[0])
    ask(chat, FIRST)
    chat.attach(files[1])
    answer, timing = ask(chat, FIRST)
    assert timing.encoded_views == 1 and chat.waiting == []
    assert chat.messages[2]["content"] == f"<image>{FIRST}"
    assert answer == generate(*mm1_tiny, chat.messages[:3], images=files, max_tokens=24)


def test_a_question_may_say_where_its_pictures_go(chat, files):
    chat.attach(*files)
    ask(chat, "Is <image> like <image>?")
    assert chat.messages[0]["content"] == "Is <image> like <image>?"


def test_a_picture_is_what_it_was_when_it_was_attached(chat, files, tmp_path, mm1_tiny):
    path = tmp_path / "gone.png"
    path.write_bytes(files[0].read_bytes())
    chat.attach(path)
    path.unlink()
    assert ask(chat, FIRST)[0] == generate(*mm1_tiny, FIRST, images=files[:1], max_tokens=24)


def test_a_packed_kv_cache_is_gone_on_with_too(mm1_tiny, files):
    chat = Conversation(*mm1_tiny, model_name="mm1-tiny", decoding=Decoding(kv_bits=8))
    chat.attach(files[0])
    ask(chat, FIRST)
    _, timing = ask(chat, SECOND)
    assert timing.encoded_views == 0 and timing.prefilled_tokens < timing.prompt_tokens / 2


def test_after_reset_nothing_is_left_but_the_system_message(chat, files):
    chat.system = "Be short."
    chat.attach(*files)
    ask(chat, FIRST)
    chat.attach(files[0])
    chat.reset()
    assert state(chat) == ([], [], [], "Be short.")


# Answers that are cut short


def test_what_was_said_before_the_answer_was_stopped_stays(chat, files, mm1_tiny):
    chat.attach(files[0])
    pieces = chat.ask(FIRST)
    said = "".join(next(pieces).text for _ in range(4))
    pieces.close()
    assert said and chat.messages == turns(f"<image>{FIRST}", said)
    answer, timing = ask(chat, SECOND)
    assert timing.encoded_views == 0 and timing.prefilled_tokens < 12
    assert answer == generate(*mm1_tiny, chat.messages[:3], images=files[:1], max_tokens=24)


def test_an_interrupt_in_the_middle_of_a_token_costs_the_kv_cache_alone(chat, files, mm1_tiny):
    chat.attach(files[0])
    pieces = chat.ask(FIRST)
    next(pieces)
    with pytest.raises(KeyboardInterrupt):
        pieces.throw(KeyboardInterrupt)
    answer, timing = ask(chat, SECOND)
    assert (timing.encoded_views, timing.prefilled_tokens) == (0, timing.prompt_tokens)
    assert answer == generate(*mm1_tiny, chat.messages[:3], images=files[:1], max_tokens=24)


def test_an_interrupt_before_the_answer_takes_the_question_back(mm1_tiny, files):
    class Interrupted(VisionCache):
        def get(self, *args):
            raise KeyboardInterrupt

    chat = Conversation(*mm1_tiny, model_name="mm1-tiny", vision_cache=Interrupted())
    chat.attach(files[0])
    before = state(chat)
    with pytest.raises(KeyboardInterrupt):
        next(chat.ask(FIRST))
    assert state(chat) == before


def test_an_image_token_that_the_model_says_stands_for_no_picture():
    model, processor = mm1_mlx.load("mm1-tiny")
    first = next(Conversation(model, processor, model_name="mm1-tiny").ask("Hello!")).token
    rows = model.decoder.embed_tokens.weight
    rows[tiny.IMAGE_ID] = 2 * rows[first]  # twice as likely as what it would say
    chat = Conversation(model, processor, model_name="mm1-tiny", decoding=Decoding(max_tokens=4))
    said, _ = ask(chat, "Hello!")
    assert said.startswith("<image>")
    assert chat.messages[1]["content"] == said.replace("<image>", "\\<image>")
    ask(chat, "Hello!")


def test_an_image_that_the_model_writes_is_a_word_in_later_turns(chat, files, mm1_tiny):
    chat.messages = turns("What is HTML's tag?", "\\<image>")
    chat.attach(files[0])
    answer, timing = ask(chat, "Is \\<image> <image>?")
    assert timing.visual_tokens == 16 and len(chat.pictures) == 1
    whole = generate(*mm1_tiny, chat.messages[:3], images=files[:1], max_tokens=24)
    assert answer == whole


def test_a_system_message_may_hold_the_word(chat, files):
    chat.system = "Say \\<image>."
    assert chat.count_tokens().total == 0
    chat.attach(files[0])
    assert [what for what, _ in chat.count_tokens().parts] == ["system", "one.png", "chat template"]


# Mistakes leave the conversation as it was


def refused(chat, kind, words, act):
    before = state(chat)
    with pytest.raises(kind, match=words):
        act()
    assert state(chat) == before


def test_a_question_with_other_places_than_pictures(chat, files):
    chat.attach(files[0])
    words = "the question has 2 <image> but 1 picture waits; attach as many"
    refused(chat, PromptError, words, lambda: ask(chat, "Is <image> like <image>?"))


def test_a_question_that_is_too_long(chat, files):
    chat.attach(files[0])
    refused(chat, PromptError, "the model's context is 1,024", lambda: ask(chat, "Why? " * 1000))
    assert ask(chat, FIRST)[1].encoded_views == 1


def test_an_empty_question(chat):
    refused(chat, PromptError, "the question is empty", lambda: ask(chat, " "))


def test_of_several_pictures_all_are_attached_or_none(chat, files, tmp_path):
    (tmp_path / "text.png").write_text("Dear diary")
    words = "text.png is not a picture"
    refused(chat, PictureError, words, lambda: chat.attach(files[0], tmp_path / "text.png"))


def test_a_picture_that_is_cut_short_is_refused_when_it_is_attached(chat, files, tmp_path):
    (tmp_path / "cut.png").write_bytes(files[0].read_bytes()[:300])
    words = "cut.png is damaged or cut short"
    refused(chat, PictureError, words, lambda: chat.attach(tmp_path / "cut.png"))


def test_pictures_that_leave_no_room_for_a_question(chat, files):
    chat.attach(files[0])
    words = "the model's context is 1,024"
    refused(chat, PromptError, words, lambda: chat.attach(*[files[1]] * 64))


def test_a_model_without_a_chat_template(tiny_folder):
    (tiny_folder / "chat_template.jinja").unlink()
    words = "mine has no chat template; ask it with python -m mm1_mlx.generate"
    with pytest.raises(PromptError, match=words):
        Conversation(*mm1_mlx.load(str(tiny_folder)), model_name="mine")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 0}, "`max_tokens` is 0"),
        ({"prefill_step_size": 0}, "`prefill_step_size` is 0"),
        ({"vision_batch_size": 0}, "`vision_batch_size` is 0"),
        ({"kv_bits": 7}, "`kv_bits` is 7"),
        ({"sampling": Sampling(top_k=10_000)}, "`top_k` is 10000"),
    ],
)
def test_settings_are_refused_before_the_first_question(mm1_tiny, options, words):
    with pytest.raises(SamplingError, match=words):
        Conversation(*mm1_tiny, model_name="mm1-tiny", decoding=Decoding(**options))


# System message


def test_a_system_message_stands_before_everything(chat, files, mm1_tiny):
    chat.attach(files[0])
    ask(chat, FIRST)
    chat.system = "Answer briefly."
    answer, timing = ask(chat, SECOND)
    assert timing.encoded_views == 0
    whole = generate(*mm1_tiny, chat.messages[:3], images=files[:1], system="Answer briefly.", max_tokens=24)
    assert answer == whole


@pytest.mark.parametrize(
    ("text", "words"), [("See <image>", "has no pictures"), ("Be short. " * 500, "context is 1,024")]
)
def test_a_system_message_that_cannot_be(chat, text, words):
    refused(chat, PromptError, words, lambda: setattr(chat, "system", text))


# Worked examples


def test_shots_are_turns_that_went_before(chat, files):
    chat.attach(files[1])
    chat.add_shots(
        [
            Shot(files[0], question="How many?", answer="two"),
            Shot(question="How many?", rationale="I see a star.", answer="one"),
            Shot(files[0], caption="A large star."),
        ]
    )
    assert chat.messages == turns(
        *("<image>How many?", "two", "How many?", "I see a star. one"),
        *("<image>Describe the picture.", "A large star."),
    )
    assert [attached.name for attached in chat.pictures] == ["one.png", "one.png"]
    assert ask(chat, "How many?")[1].visual_tokens == 48
    assert chat.pictures[-1].name == "two.png"


def test_shots_with_a_picture_that_is_missing(chat, tmp_path):
    shots = [Shot(question="Is it?", answer="yes"), Shot(tmp_path / "no.png", caption="A star.")]
    refused(chat, PictureError, r"there is no picture at .*no\.png", lambda: chat.add_shots(shots))


# Costs


def test_the_parts_of_the_costs_are_in_reading_order_and_add_up(chat, files, mm1_tiny):
    chat.system = "Be short."
    chat.attach(files[0])
    answer, _ = ask(chat, FIRST)
    chat.attach(files[1])
    costs = chat.count_tokens()
    names = ["system", f"user: {FIRST}", "one.png", f"assistant: {answer}", "two.png", "chat template"]
    assert [what for what, _ in costs.parts] == names
    assert dict(costs.parts)["one.png"] == 16
    assert sum(tokens for _, tokens in costs.parts) == costs.total
    question = mm1_tiny[1].tokenizer.encode(SECOND, add_special_tokens=False)
    assert ask(chat, SECOND)[1].prompt_tokens == costs.total + len(question)
    assert costs.context == 1024


def test_a_word_that_looks_like_a_place_is_counted_and_shown_as_a_word(chat, files):
    chat.attach(files[0])
    answer, _ = ask(chat, "What is \\<image> or <|end|>?")
    costs = chat.count_tokens()
    names = ["user: What is <image> or <|end|>?", "one.png", f"assistant: {answer}", "chat template"]
    assert [what for what, _ in costs.parts] == names
    assert sum(tokens for _, tokens in costs.parts) == costs.total


def test_a_conversation_that_has_not_begun_costs_nothing(chat):
    assert (chat.count_tokens().parts, chat.count_tokens().total) == ([], 0)


# Saved conversations


def test_a_saved_conversation_goes_on_with_the_same_answer(chat, files, tmp_path, mm1_tiny):
    chat.system = "Be short."
    chat.attach(files[0])
    ask(chat, FIRST)
    chat.attach(files[1])
    chat.save(tmp_path / "chat.json")
    loaded = Conversation(*mm1_tiny, model_name="other", decoding=Decoding(max_tokens=24))
    assert loaded.load(tmp_path / "chat.json") == "mm1-tiny"
    assert state(loaded) == state(chat)
    assert ask(loaded, SECOND)[0] == ask(chat, SECOND)[0]


def test_a_saved_conversation_keeps_words_apart_from_places(chat, files, tmp_path, mm1_tiny):
    chat.attach(files[0])
    ask(chat, "Is it \\<image>?")
    chat.save(tmp_path / "chat.json")
    loaded = Conversation(*mm1_tiny, model_name="other", decoding=Decoding(max_tokens=24))
    loaded.load(tmp_path / "chat.json")
    assert (loaded.messages, len(loaded.pictures), loaded.waiting) == (chat.messages, 1, [])
    assert ask(loaded, SECOND)[0] == ask(chat, SECOND)[0]


def test_a_conversation_may_be_saved_again_but_over_no_other_file(chat, files, tmp_path):
    path = tmp_path / "chat.json"
    chat.save(path)
    chat.attach(files[0])
    chat.save(path)
    assert len(json.loads(path.read_text())["pictures"]) == 1
    picture = tmp_path / "cat.png"
    picture.write_bytes(files[0].read_bytes())
    words = "cat.png is there already and is no saved conversation; give another name"
    refused(chat, PromptError, words, lambda: chat.save(picture))
    assert picture.read_bytes() == files[0].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cat.png", "chat.json"]


def test_a_conversation_that_cannot_be_written(chat, tmp_path):
    words = "cannot be written: No such file or directory"
    refused(chat, PromptError, words, lambda: chat.save(tmp_path / "nowhere" / "chat.json"))


def test_a_picture_whose_file_has_gone_is_saved_itself(chat, files, tmp_path, mm1_tiny):
    (tmp_path / "gone.png").write_bytes(files[0].read_bytes())
    chat.attach(tmp_path / "gone.png")
    (tmp_path / "gone.png").unlink()
    chat.save(tmp_path / "chat.json")
    loaded = Conversation(*mm1_tiny, model_name="mm1-tiny", decoding=Decoding(max_tokens=24))
    loaded.load(tmp_path / "chat.json")
    assert ask(loaded, FIRST)[0] == ask(chat, FIRST)[0]


def test_a_picture_without_a_file_is_saved_itself(chat, files, tmp_path):
    url = "data:image/png;base64," + base64.b64encode(files[0].read_bytes()).decode()
    chat.attach(url, files[1].read_bytes())
    chat.save(tmp_path / "chat.json")
    before = [attached.picture.sha256 for attached in chat.waiting]
    chat.load(tmp_path / "chat.json")
    assert [attached.picture.sha256 for attached in chat.waiting] == before


def saved(**changes):
    values = {"version": 1, "model": "mm1-tiny", "system": None, "messages": [], "pictures": []}
    return json.dumps(values | changes)


NOT_LOADED = {
    "no JSON": ("{", "chat.json is not valid JSON"),
    "a list": ("[]", "chat.json is no saved conversation"),
    "another version": (saved(version=2), "chat.json has version 2, expected 1"),
    "a key too many": (saved(title="x"), "unknown key 'title'"),
    "a key too few": ('{"version": 1}', "lacks model"),
    "another role": (saved(messages=[{"role": "system", "content": ""}]), "expected one of user, assistant"),
    "no picture at all": (
        saved(pictures=[{}]),
        "expected an absolute path and sha256, or a data: URL as data",
    ),
    "a path for data": (saved(pictures=[{"data": "/etc/hosts"}]), "expected an absolute path and sha256, or"),
    "a path from nowhere": (saved(pictures=[{"path": "~\0", "sha256": ""}]), "expected an absolute path"),
    "broken data": (saved(pictures=[{"data": "data:;base64,?"}]), "chat.json: the data: URL is not valid"),
    "a picture too few": (saved(messages=turns("<image>?")), "have 1 <image>, but there are 0 pictures"),
    "too long": (saved(messages=turns("Why? " * 1000)), "chat.json: .* context is 1,024"),
}


@pytest.mark.parametrize("kind", NOT_LOADED)
def test_a_file_that_is_no_conversation_is_not_loaded(chat, files, tmp_path, kind):
    text, words = NOT_LOADED[kind]
    (tmp_path / "chat.json").write_text(text)
    chat.attach(files[0])
    ask(chat, FIRST)
    refused(chat, MM1Error, words, lambda: chat.load(tmp_path / "chat.json"))


def test_a_conversation_that_is_not_there(chat, tmp_path):
    words = "there is no saved conversation at .*none.json"
    refused(chat, CheckpointError, words, lambda: chat.load(tmp_path / "none.json"))


def test_a_conversation_whose_picture_is_gone_or_another(chat, files, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(files[0].read_bytes())
    chat.attach(path)
    chat.save(tmp_path / "chat.json")
    path.write_bytes(files[1].read_bytes())
    words = r"chat\.json: .*cat\.png is another picture .* put the old picture back"
    refused(chat, PictureError, words, lambda: chat.load(tmp_path / "chat.json"))
    path.unlink()
    words = r"chat\.json: there is no picture at .*cat\.png"
    refused(chat, PictureError, words, lambda: chat.load(tmp_path / "chat.json"))
