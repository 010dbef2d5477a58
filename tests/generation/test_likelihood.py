"""How likely continuations are: equal to what one plain pass over prompt and continuation gives each."""

from contextlib import closing
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import ANYRES, SMALL, SMART

from mm1_mlx import generate, tiny
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.errors import PromptError
from mm1_mlx.generation import Decoding, Engine

COLORS = [f" {color}" for color in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")]
QUESTION = "<image>Question: What color is it? Short answer:"


@pytest.fixture(scope="module")
def pictures():
    return [tiny.render(tiny.make_scene(tiny.TESTING_SEEDS + seed)) for seed in range(3)]


@pytest.fixture
def engine(mm1_tiny):
    with closing(Engine(*mm1_tiny, Decoding(), batch_size=3)) as engine:
        yield engine


def direct(model, processor, prompt, images, text, template="plain"):
    """Log-likelihoods of a continuation's tokens from one pass without any cache, and whether all are the likeliest."""
    inputs = processor(prompt, images, template=template)
    ids = processor.prompt_ids(prompt, len(images), template=template)
    own = processor.prompt_ids(prompt, len(images), template=template, answer=text)[len(ids) :]
    embeddings = model.embed_inputs(inputs.input_ids, pixel_values=inputs.pixel_values)
    embeddings = mx.concatenate([embeddings, model.embed_text(mx.array(own))])[None]
    logits = np.array(model(None, input_embeddings=embeddings)[0, len(inputs.input_ids) - 1 : -1])
    logits = logits.astype(np.float64)
    values = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return [values[place, id] for place, id in enumerate(own)], all(logits.argmax(-1) == own)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_each_continuation_is_as_likely_as_in_a_plain_pass(engine, mm1_tiny, pictures, template):
    texts = [*COLORS, " red circle", " a small green star and a letter Q", " circle.\n"]
    for found in engine.score(QUESTION, pictures[:1], texts, template=template):
        expected, is_greedy = direct(*mm1_tiny, QUESTION, pictures[:1], found.text, template)
        np.testing.assert_allclose(found.log_likelihoods, expected, atol=2e-4)
        assert found.total == pytest.approx(sum(expected), abs=1e-3)
        assert found.is_greedy == is_greedy


@settings(max_examples=15)
@given(texts=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=7), step=st.integers(1, 6))
@pytest.mark.slow
def test_any_texts_in_steps_of_any_size(mm1_tiny, pictures, texts, step):
    with closing(Engine(*mm1_tiny, Decoding(prefill_step_size=step), batch_size=2)) as engine:
        found = engine.score(
            "Look: <image> It says:", pictures[:1], [" " + text for text in texts], template="plain"
        )
    for text, own in zip(texts, found, strict=True):
        expected, _ = direct(*mm1_tiny, "Look: <image> It says:", pictures[:1], " " + text)
        np.testing.assert_allclose(own.log_likelihoods, expected, atol=2e-4)


def test_what_the_model_answers_is_greedy_and_the_likeliest_choice(engine, mm1_tiny, pictures):
    for picture in pictures:
        answer = generate(*mm1_tiny, "What color is it?", images=[picture], max_tokens=1)
        found = engine.score("What color is it?", [picture], [answer, *(c.strip() for c in COLORS)])
        assert found[0].is_greedy
        assert max(found, key=lambda own: own.total).text == answer


@pytest.mark.parametrize("config", [SMALL, ANYRES, SMART], ids=["one view", "anyres", "any grid"])
def test_a_picture_may_end_the_prompt(make_small, pictures, config):
    model, processor = make_small(config)
    with closing(Engine(model, processor, Decoding())) as engine:
        found = engine.score("Look: <image>", pictures[:1], [" a", " b c"], template="plain")
    inputs = processor("Look: <image>", pictures[:1], template="plain")
    for own in found:
        pixels = inputs.pixel_values
        embedded = model.embed_inputs(inputs.input_ids, pixel_values=pixels, token_order=inputs.token_order)
        whole = mx.concatenate([embedded, model.embed_text(mx.array(own.tokens))])[None]
        logits = model(None, input_embeddings=whole)[0, len(inputs.input_ids) - 1 : -1]
        values = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        expected = [values[place, id].item() for place, id in enumerate(own.tokens)]
        np.testing.assert_allclose(own.log_likelihoods, expected, atol=2e-4)


def test_a_decoder_of_mlx_lms_scores_too(make_small, pictures):
    values = {
        **{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 768},
        **{"max_position_embeddings": 512, "tie_word_embeddings": True},
    }
    model, processor = make_small(replace(SMALL, text_config=MlxLmDecoderConfig(values)))
    with closing(Engine(model, processor, Decoding(), batch_size=4)) as engine:
        for found in engine.score(QUESTION, pictures[:1], [*COLORS, " a red star"], template="plain"):
            inputs = processor(QUESTION, pictures[:1], template="plain")
            embedded = model.embed_inputs(inputs.input_ids, pixel_values=inputs.pixel_values)
            whole = mx.concatenate([embedded, model.embed_text(mx.array(found.tokens))])[None]
            logits = model(mx.zeros(whole.shape[:2], mx.int32), input_embeddings=whole)[0]
            logits = logits[len(inputs.input_ids) - 1 : -1]
            values = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            expected = [values[place, id].item() for place, id in enumerate(found.tokens)]
            np.testing.assert_allclose(found.log_likelihoods, expected, atol=2e-4)


def test_what_prompts_share_is_read_once(mm1_tiny, pictures, monkeypatch):
    read = []
    with closing(Engine(*mm1_tiny, Decoding())) as engine:
        call = mm1_tiny[0].decoder.__call__

        def counted(self, ids, **rest):
            read.append(ids.shape[1])
            return call(ids, **rest)

        monkeypatch.setattr(type(mm1_tiny[0].decoder), "__call__", counted)
        shot = f"{QUESTION} red\n"
        engine.score(shot + QUESTION, pictures[:2], COLORS, template="plain")
        first, read[:] = sum(read), []
        again = engine.score(shot + QUESTION, [pictures[0], pictures[2]], COLORS, template="plain")
    assert 1.7 < first / sum(read) < 2.3
    monkeypatch.undo()
    with closing(Engine(*mm1_tiny, Decoding())) as engine:
        alone = engine.score(shot + QUESTION, [pictures[0], pictures[2]], COLORS, template="plain")
    for ours, theirs in zip(again, alone, strict=True):
        assert ours.total == pytest.approx(theirs.total, abs=1e-4)


def test_one_text_needs_no_list(engine, pictures):
    (found,) = engine.score("What color is it?", pictures[:1], "red")
    assert found.text == "red" and len(found.tokens) == len(found.log_likelihoods)


def test_a_token_across_the_border_counts_for_all(mm1_tiny):
    """The tokenizer knows " circle" and "s"; behind " circ" the whole word is one token, and begins before it."""
    processor = mm1_tiny[1]
    prompt, joined = (processor.prompt_ids(text, 0, template="plain") for text in ("a circ", "a circle"))
    assert joined[: len(prompt)] != prompt
    with closing(Engine(*mm1_tiny, Decoding())) as engine:
        whole, other = engine.score("a circ", [], ["le", "us"], template="plain")
        assert list(whole.tokens) == joined[len(joined) - len(whole.tokens) :]
        at = len(joined) - len(whole.tokens)
        assert list(other.tokens) == processor.prompt_ids("a circus", 0, template="plain")[at:]


@pytest.mark.parametrize(
    ("continuations", "message"),
    [([], "no continuation"), ([""], "'' has no token"), (["red " * 1200], "context is 1,024")],
)
def test_what_cannot_be_scored_is_refused(engine, continuations, message):
    with pytest.raises(PromptError, match=message):
        engine.score("What is it?", [], continuations)
