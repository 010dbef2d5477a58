"""Prompts are cut into the pieces that Honeybee tokenises one by one."""

import json
from dataclasses import replace

import pytest
from golden_weights import GOLDEN
from jinja2 import Environment
from mlx_lm.tokenizer_utils import TokenizerWrapper
from small_models import SMALL
from transformers import LlamaTokenizer

from convert.sources.honeybee import ASSISTANT, CHAT_TEMPLATE, HUMAN
from mm1_mlx.config import PromptConfig
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.inputs.prompt import IMAGE, messages_of, split_at

ENTRIES = json.loads((GOLDEN / "honeybee_prompts" / "prompt_pieces.json").read_text())
CHATS, CAPTION = ENTRIES[:4], ENTRIES[4]
BEGIN, END = "<s>", "</s>"

CONVERSATIONS = [  # what CHATS stand for: messages, and the number of pictures
    (["What is in the picture?"], 1),
    (["Hi", "A dog.", "Colour?"], 1),
    (["Hello"], 0),
    (["Hi", "A dog."], 1),
]


def pieces_of(entry, kind):
    return [piece[kind] for piece in entry["pieces"] if kind in piece]


@pytest.mark.parametrize("entry", CHATS)
def test_a_prompt_is_cut_into_the_published_pieces(entry):
    pieces = [piece for piece in split_at(entry["prompt"], (IMAGE, HUMAN, ASSISTANT)) if piece != IMAGE]
    assert pieces == pieces_of(entry, "text")


@pytest.mark.parametrize("number", range(4))
def test_the_chat_template_writes_the_published_pieces(number):
    (texts, num_images), entry = CONVERSATIONS[number], CHATS[number]
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    text = (
        Environment(trim_blocks=True, lstrip_blocks=True)
        .from_string(CHAT_TEMPLATE)
        .render(
            messages=messages_of(turns, num_images, after_image=HUMAN),
            bos_token=BEGIN,
            eos_token=END,
            add_generation_prompt=len(texts) % 2 == 1,
        )
    )
    assert [named(piece, entry) for piece in split_at(text, (BEGIN, END, IMAGE, HUMAN, ASSISTANT))] == entry[
        "pieces"
    ]


def named(piece, entry):
    """A piece as the published list writes it."""
    special = {BEGIN: {"special": "bos"}, END: {"special": "eos"}}
    special[IMAGE] = {"image_tokens": entry["num_visual_tokens"]}
    return special.get(piece, {"text": piece})


def test_the_first_piece_begins_with_a_space_behind_the_begin_token():
    merges = [("▁", "T"), ("h", "e"), ("▁T", "he"), ("T", "he")]
    tokens = ["<unk>", BEGIN, END, IMAGE, *"▁The", *("".join(pair) for pair in merges)]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.chat_template = CHAT_TEMPLATE
    rules = PromptConfig(cut_at=(HUMAN, ASSISTANT), after_image=HUMAN)
    processor = Processor(TokenizerWrapper(tokenizer), replace(SMALL, prompt_config=rules))
    assert processor("Hi").input_ids.tolist()[:2] == [vocabulary[BEGIN], vocabulary["▁The"]]


def test_a_caption_is_the_picture_then_its_text():
    pieces = split_at("<image>a cat on a mat", (IMAGE, HUMAN, ASSISTANT))
    assert [named(piece, CAPTION) for piece in pieces] == CAPTION["pieces"][1:-1]
