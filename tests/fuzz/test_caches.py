"""Damaged files of the vision cache and of prompt caches are made anew or refused in words."""

import contextlib
from pathlib import Path
from random import Random

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import examples, mutate

from mm1_mlx import Prefix, VisionCache, generate
from mm1_mlx.errors import MM1Error
from mm1_mlx.generation.saved_conversation import SavedConversation

ASK = "What color is the circle?"
SEEDS = st.integers(0, 2**32)


def test_a_damaged_entry_of_the_vision_cache_changes_no_answer(mm1_tiny, picture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    right = generate(*mm1_tiny, ASK, images=[picture], vision_cache=VisionCache(folder=folder))
    (path,) = folder.iterdir()
    whole = path.read_bytes()

    @settings(max_examples=examples(25))
    @given(seed=SEEDS)
    def answer_again(seed):
        path.write_bytes(mutate(whole[:400], Random(seed)) + whole[400:])
        cache = VisionCache(folder=folder)
        assert generate(*mm1_tiny, ASK, images=[picture], vision_cache=cache) == right

    answer_again()


@pytest.mark.parametrize("what", ["header", "all"])
def test_a_damaged_prompt_cache(mm1_tiny, picture, tmp_path_factory, what):
    model, _ = mm1_tiny
    path = tmp_path_factory.mktemp("prompts") / "cache.safetensors"
    prefix = Prefix(model)
    generate(*mm1_tiny, ASK, images=[picture], prefix=prefix, max_tokens=2)
    prefix.save(path)
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little") if what == "header" else len(whole)

    @settings(max_examples=examples(25))
    @given(seed=SEEDS)
    def load_damaged(seed):
        path.write_bytes(mutate(whole[:length], Random(seed)) + whole[length:])
        with contextlib.suppress(MM1Error):
            loaded = Prefix.load(path, model)
            mx.eval([entry.state for entry in loaded.cache])
            generate(*mm1_tiny, ASK, images=[picture], prefix=loaded, max_tokens=2)

    load_damaged()


CHAT = b"""{"version": 1, "model": "mm1-tiny", "system": null, "messages": [{"role": "user", "content": "Hi"},
{"role": "assistant", "content": "Hello <image>"}], "pictures": [{"path": "a.png", "data": null, "sha256": "00"}]}"""


@settings(max_examples=examples(100))
@given(seed=SEEDS)
def test_a_damaged_conversation(tmp_path_factory, seed):
    path = Path(tmp_path_factory.getbasetemp(), "chat.json")
    path.write_bytes(mutate(CHAT, Random(seed)))
    with contextlib.suppress(MM1Error):
        SavedConversation.read(path)
