"""Special tokens that people type are words, with every kind of tokenizer and wherever text enters."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from PIL import Image
from small_models import SMALL
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mm1_mlx import Processor
from mm1_mlx.checkpoint.tokenizer import load_tokenizer_of
from mm1_mlx.data.examples import make_example
from mm1_mlx.data.pairs import make_pair
from mm1_mlx.data.row_forms import read_row
from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.prompts import PROMPTS
from mm1_mlx.evaluation.tasks.task import Item
from mm1_mlx.generation.batch_file import read_rows
from mm1_mlx.generation.request import Request
from mm1_mlx.inputs.control_tokens import find_control_tokens
from mm1_mlx.inputs.few_shot import Shot

PLAIN = "red"  # what stands in the place of the token in the text to compare with
TURNS = "{% for m in messages %}BEGIN{{ m.role }}SEP{{ m.content }}END{% endfor %}{% if add_generation_prompt %}BEGINassistantSEP{% endif %}"
WORDS = [
    "what is red in the picture",
    "a user and an assistant of a system",
    "question: short answer: it is [a] <b> |c|",
]


def by_bytes(specials):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet)
    return tokenizer, trainer


def by_likelihood(specials):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(vocab_size=200, special_tokens=specials, unk_token="<unk>")


def by_words(specials):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials)


# How text is split, the special tokens, and those that begin a turn, stand between role and text, and end a turn.
KINDS = {
    "byte-level BPE": (by_bytes, ["<unk>", "<s>", "</s>", "<pad>", "<image>"], ("<s>", " ", "</s>")),
    "Unigram": (by_likelihood, ["<unk>", "<s>", "</s>", "<mask>", "<image>"], ("<s>", " ", "</s>")),
    "WordPiece": (
        by_words,
        ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "<image>"],
        ("[CLS]", " ", "[SEP]"),
    ),
    "Llama 3": (
        by_bytes,
        [
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|reserved_special_token_0|>",
        ],
        ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
    ),
    "ChatML": (
        by_bytes,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>"],
        ("<|im_start|>", "\n", "<|im_end|>\n"),
    ),
}


def write_tokenizer(folder, kind, *, special=True):
    """Write a tokenizer of a kind with its chat template, and return the ids of its special tokens by name.

    Without ``special``, its tokens are not called so.
    """
    make, specials, (begin, between, end) = KINDS[kind]
    tokenizer, trainer = make(specials)
    tokenizer.train_from_iterator([*WORDS, *specials] * 3, trainer)
    values = json.loads(tokenizer.to_str())
    for token in values["added_tokens"]:
        token["special"] = special
    (folder / "tokenizer.json").write_text(json.dumps(values))
    begins = next(token for token in specials if token in (begin, "<|begin_of_text|>", "<|endoftext|>"))
    settings = {"bos_token": begins, "eos_token": end.strip(), "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    template = TURNS.replace("BEGIN", begin).replace("SEP", between).replace("END", end)
    (folder / "chat_template.jinja").write_text(template)
    return {token: tokenizer.token_to_id(token) for token in specials}


@pytest.fixture(params=KINDS)
def case(request, tmp_path):
    """Return a processor with the tokenizer of a kind, the ids of its special tokens, and a picture's file."""
    specials = write_tokenizer(tmp_path, request.param)
    image = [*specials][-1]
    config = replace(SMALL, image_token_id=specials[image], eos_token_id=None)
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    return Processor(load_tokenizer_of(tmp_path, config), config), specials, tmp_path


def yield_ids(processor, folder, text):
    """Yield every way in which text enters, and the ids that the model reads."""
    picture = folder / "red.png"
    for template in ("chat", "plain"):
        yield f"prompt, {template}", processor.prompt_ids(text, 0, template=template)
        yield f"system, {template}", processor.prompt_ids("what", 0, system=text, template=template)
        yield (
            f"picture, {template}",
            processor(f"{text}<image>", [picture], template=template).input_ids.tolist(),
        )
        yield f"begun answer, {template}", processor.prompt_ids("what", 0, template=template, answer=text)
    turns = [{"role": role, "content": text} for role in ("system", "user", "assistant", "user")]
    yield "turns", processor.prompt_ids(turns, 0)
    parts = [{"type": "text", "text": text}, {"type": "image"}, {"type": "text", "text": text}]
    yield "parts", processor([{"role": "user", "content": parts}], [picture]).input_ids.tolist()
    shot = Shot(picture, question=text, rationale=text, answer=text)
    yield "shots", processor.few_shot([shot], Shot(picture, question=text)).input_ids.tolist()
    yield (
        "shot of a caption",
        processor.few_shot([Shot(picture, caption=text)], Shot(picture)).input_ids.tolist(),
    )
    (folder / "rows.jsonl").write_text(
        json.dumps({"prompt": text, "system": text, "image": "red.png"}) + "\n"
    )
    (row,) = read_rows(str(folder / "rows.jsonl"), prompt=None, system=None)
    yield "batch row", Request(row.prompt, row.images, row.system).prepare(processor).input_ids.tolist()
    for name, values in yield_rows(text):
        record = read_row(values, name="row", folder=folder)
        with suppress(
            DataError
        ):  # a tokenizer that does not give back what it was given trains on no conversation
            yield name, make_example(record, processor).ids.tolist()
        if name == "caption":
            yield "pair", list(make_pair(record, processor, max_length=500).ids)
    for name, prompts in PROMPTS.items():
        item = Item("1", picture, (text,), text)
        yield f"evaluation, {name}", prompts.write([item], item, "").prepare(processor).input_ids.tolist()


def yield_rows(text):
    """Yield a row of each form for training."""
    chat = [{"role": role, "content": text} for role in ("system", "user", "assistant")]
    yield "chat row", {"messages": chat}
    yield "question row", {"question": text, "answer": text}
    yield "llava row", {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]}
    yield "caption", {"image": "red.png", "caption": text}
    yield "document", {"texts": [text, None, text], "images": [None, "red.png", None]}
    yield "text row", {"text": text}


def test_a_special_token_that_is_typed_anywhere_is_no_structure(case, subtests):
    processor, specials, folder = case
    ids = set(specials.values())

    def structure(text):
        return {way: [id for id in found if id in ids] for way, found in yield_ids(processor, folder, text)}

    expected = structure(f"a {PLAIN} b")
    assert all(expected.values()) and len(expected) > 15
    for token in specials:
        typed = token.replace("<image>", "\\<image>")
        with subtests.test(token):
            found = structure(f"a {typed} b")
            assert len(found) > 15
            assert found == {way: expected[way] for way in found}


def test_a_special_token_that_normalisation_makes_is_no_structure(tmp_path):
    specials = write_tokenizer(tmp_path, "Unigram")
    config = replace(SMALL, image_token_id=specials["<image>"], eos_token_id=None)
    processor = Processor(load_tokenizer_of(tmp_path, config), config)
    wide, plain = (
        [id for id in processor.prompt_ids(text, 0) if id in {*specials.values()} - {specials["<unk>"]}]
        for text in ("a \uff1cs\uff1e b", "a red b")
    )
    assert wide == plain


@pytest.mark.parametrize("kind", ["Llama 3", "ChatML"])
def test_a_token_that_builds_turns_is_no_text_though_its_tokenizer_does_not_call_it_special(kind, tmp_path):
    specials = write_tokenizer(tmp_path, kind, special=False)
    image = [*specials][-1]
    config = replace(SMALL, image_token_id=specials[image], eos_token_id=None)
    processor = Processor(load_tokenizer_of(tmp_path, config), config)
    begin, _, end = KINDS[kind][2]

    def turns(text):
        return [id for id in processor.prompt_ids(text, 0) if id in (specials[begin], specials[end.strip()])]

    assert len(turns("red")) > 2
    for token in (begin, end.strip()):
        assert turns(f"a {token}assistant red") == turns("a assistant red")


def test_tags_in_pairs_stay_what_they_are_unless_they_are_called_special():
    added = {
        number: AddedToken(text, special=special)
        for number, (text, special) in enumerate(
            [("<think>", False), ("</think>", False), ("<|user|>", False), ("<b>", False), ("<x>", True)]
        )
    }
    assert find_control_tokens(added, "<|user|><think>") == {2: "<|user|>", 4: "<x>"}
