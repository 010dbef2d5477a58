import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ChunkedKVCache
from PIL import Image

from mm1_mlx import MM1, MM1Config, Sampling, generate, preset, stream_generate
from mm1_mlx.errors import PromptError, SamplingError
from mm1_mlx.generation.answering import Answering
from mm1_mlx.generation.caches import make_cache
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.request import Request
from mm1_mlx.vision.encode import embed

PROMPT = "Describe the picture."


def test_pieces_join_to_the_answer(mm1_tiny, picture):
    pieces = list(stream_generate(*mm1_tiny, PROMPT, images=[picture]))
    assert "".join(p.text for p in pieces) == generate(*mm1_tiny, PROMPT, images=[picture])
    assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == "stop"


def test_greedy_generation_equals_the_argmax_of_whole_passes(mm1_tiny, picture):
    model, processor = mm1_tiny
    inputs = processor(PROMPT, [picture])
    tokens = [p.token for p in stream_generate(model, processor, PROMPT, images=[picture], max_tokens=6)]
    ids = inputs.input_ids
    for token in tokens:
        logits = model(ids[None], pixel_values=inputs.pixel_values)
        assert int(logits[0, -1].argmax()) == token
        ids = mx.concatenate([ids, mx.array([token], dtype=ids.dtype)])


def test_chunked_prefill_changes_nothing(mm1_tiny, picture):
    whole = generate(*mm1_tiny, PROMPT, images=[picture])
    assert generate(*mm1_tiny, PROMPT, images=[picture], prefill_step_size=5) == whole


def test_the_same_seed_gives_the_same_sample_even_seed_0(mm1_tiny, picture):
    hot = Sampling(temp=2.0, seed=0)
    first = generate(*mm1_tiny, PROMPT, images=[picture], sampling=hot)
    mx.random.seed(123)
    assert generate(*mm1_tiny, PROMPT, images=[picture], sampling=hot) == first
    assert generate(*mm1_tiny, PROMPT, images=[picture], sampling=Sampling(temp=2.0, seed=5)) != first


def test_max_tokens_ends_the_answer(mm1_tiny, picture):
    last = list(stream_generate(*mm1_tiny, PROMPT, images=[picture], max_tokens=2))[-1]
    assert (last.timing.generation_tokens, last.finish_reason) == (2, "length")


def test_pictures_come_as_files_bytes_or_arrays(mm1_tiny, picture):
    with Image.open(picture) as opened:
        array = np.array(opened)
    answers = {generate(*mm1_tiny, PROMPT, images=[s]) for s in (picture, picture.read_bytes(), array)}
    assert len(answers) == 1


def test_embeddings_of_a_prompt_equal_the_models_own(mm1_tiny, picture):
    model, processor = mm1_tiny
    inputs = processor("<image>one<image>two", [picture, picture])
    theirs = model.embed_inputs(inputs.input_ids, pixel_values=inputs.pixel_values)
    np.testing.assert_allclose(np.array(embed(model, inputs)), np.array(theirs), atol=1e-5)


def test_timing_counts_tokens_and_every_phase(mm1_tiny, picture):
    timing = list(stream_generate(*mm1_tiny, PROMPT, images=[picture, picture]))[-1].timing
    assert timing.visual_tokens == 32 < timing.prompt_tokens
    phases = (timing.preprocess, timing.encoder, timing.connector, timing.prefill, timing.decode)
    assert all(seconds > 0 for seconds in phases)
    assert timing.first_token >= sum(phases[:4]) * 0.99
    assert timing.peak_memory > 0


@pytest.mark.parametrize("options", [{"kv_bits": 8}, {"max_kv_size": 512}])
def test_other_kv_caches_answer_alike(options, mm1_tiny, picture):
    question = "What color is it?"
    assert generate(*mm1_tiny, question, images=[picture], **options) == generate(
        *mm1_tiny, question, images=[picture]
    )


@pytest.mark.parametrize(
    "options, words",
    [
        ({"kv_bits": 7}, "`kv_bits` is 7"),
        ({"kv_bits": 4, "max_kv_size": 64}, "exclude each other"),
        ({"max_kv_size": 2}, "`max_kv_size` is 2"),
        ({"max_tokens": 0}, "`max_tokens` is 0"),
        ({"max_tokens": -3}, "`max_tokens` is -3"),
        ({"prefill_step_size": 0}, "`prefill_step_size` is 0"),
        ({"sampling": {"top_k": 5000}}, "vocabulary of 768"),
    ],
)
def test_absurd_settings_are_refused(options, words, mm1_tiny, picture):
    if "sampling" in options:
        options = {"sampling": Sampling(temp=1.0, **options["sampling"])}
    with pytest.raises(SamplingError, match=words):
        generate(*mm1_tiny, PROMPT, images=[picture], **options)


@pytest.mark.parametrize(
    "values",
    [
        {"temp": -1.0},
        {"temp": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"top_k": -1},
        {"seed": -1},
    ],
)
def test_absurd_sampling_is_refused(values):
    with pytest.raises(SamplingError, match=f"`{next(iter(values))}` is "):
        Sampling(**values)


def make_llama(**values):
    """A model with a Llama of two layers and random weights."""
    mx.random.seed(0)
    config = preset("mm1-tiny").to_dict()
    config["text_config"] = {
        **{"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 64},
        **{"num_attention_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 768},
        **values,
    }
    return MM1(MM1Config.from_dict(config))


def test_the_cache_of_a_decoder_that_makes_its_own_is_bounded(mm1_tiny):
    model, processor = make_llama(), mm1_tiny[1]
    whole = [p.token for p in stream_generate(model, processor, PROMPT, max_tokens=40)]
    for size in (200, 16):
        prefix = Prefix(model, max_kv_size=size)
        tokens = [p.token for p in stream_generate(model, processor, PROMPT, max_tokens=40, prefix=prefix)]
        assert tokens == whole or size == 16
        assert len(prefix) > 16 and {entry.size() for entry in prefix.cache} == {min(size, len(prefix))}


def test_layers_with_a_window_of_their_own_keep_it():
    model = make_llama(layer_types=["full_attention", "sliding_attention"], sliding_window=8)
    assert [entry.max_size for entry in make_cache(model, max_kv_size=64)] == [64, 8]


def test_a_cache_of_another_kind_is_refused_by_name():
    model = make_llama()
    model.decoder.make_cache = lambda: [ChunkedKVCache(8)]
    with pytest.raises(SamplingError, match=r"cannot bound this llama decoder, some .* a ChunkedKVCache"):
        make_cache(model, max_kv_size=64)


def test_a_cache_that_would_lose_a_picture_is_refused(mm1_tiny, picture):
    prompt = len(mm1_tiny[1](PROMPT, [picture]).input_ids)
    with pytest.raises(SamplingError, match=f"`max_kv_size` is {prompt}.* Give {prompt + 9}, or lower"):
        generate(*mm1_tiny, PROMPT, images=[picture], max_tokens=10, max_kv_size=prompt)
    for size, tokens in ((prompt + 9, 10), (prompt, 1)):
        assert generate(*mm1_tiny, PROMPT, images=[picture], max_tokens=tokens, max_kv_size=size)
    long = "red star " * 30 + "<image>"
    places = mm1_tiny[1](long, [picture], template="plain")
    start = places.image_places[0].start
    more = len(places.input_ids) - start  # text before a picture may be overwritten up to the picture
    assert generate(*mm1_tiny, long, images=[picture], template="plain", max_tokens=1, max_kv_size=more + 4)
    with pytest.raises(SamplingError, match="visual tokens would be overwritten"):
        generate(*mm1_tiny, long, images=[picture], template="plain", max_tokens=1, max_kv_size=more + 3)


def test_an_answer_that_stops_within_a_character_ends_before_it(mm1_tiny, picture):
    processor = mm1_tiny[1]
    tokenizer = processor.tokenizer
    first = tokenizer.encode("\u00e9", add_special_tokens=False)
    assert len(first) == 2  # mm1-tiny spells it in bytes
    inputs = processor("red", [picture])

    def write(end):
        answering = Answering(Request(inputs), processor)
        detokenizer, text = tokenizer.detokenizer, ""
        tokens = [*tokenizer.encode("red", add_special_tokens=False), *first[:end]]
        for number, token in enumerate(tokens, 1):
            detokenizer.add_token(token)
            if number == len(tokens):
                detokenizer.finalize()
            reason = "length" if number == len(tokens) else None
            text += answering.add(detokenizer.last_segment, token, reason).text
        return text

    assert write(1).strip() == "red"
    assert write(2).strip() == "red\u00e9"


def test_a_sliding_window_refuses_kv_bits():
    values = preset("mm1-tiny").to_dict()
    values["text_config"] = {
        **{"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 64},
        **{"num_attention_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 768, "sliding_window": 16},
        **{"layer_types": ["full_attention", "sliding_attention"]},
    }
    with pytest.raises(SamplingError, match="sliding window of this llama decoder"):
        make_cache(MM1(MM1Config.from_dict(values)), kv_bits=4)


def test_a_prompt_that_cannot_fit_is_refused_before_any_picture_is_opened(mm1_tiny):
    with pytest.raises(PromptError, match="pictures 1 to 100: at least 16 each"):
        generate(*mm1_tiny, PROMPT, images=["there is no such picture"] * 100)


def test_a_prompt_longer_than_the_context_says_what_to_lower(mm1_tiny, picture):
    with pytest.raises(
        PromptError,
        match=r"context is 1,024.* text 1,0\d\d; picture 1: at least 16\. To make room, shorten the text",
    ):
        generate(*mm1_tiny, "circle " * 1040, images=[picture])
