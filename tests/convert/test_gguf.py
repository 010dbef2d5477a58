"""GGUF files as decoders of new models: every kind of block, every architecture, and what is refused."""

import json
import random
import struct

import mlx.core as mx
import numpy as np
import pytest
from gguf_files import CODES, METADATA, make_gguf, write_gguf
from halves import CLIP
from mlx_lm.utils import load_model
from stand_in import load_weights, needs_torch

import mm1_mlx
from convert.__main__ import main
from convert.conversion import convert
from convert.gguf_blocks import KINDS
from convert.gguf_decoder import read_gguf_decoder
from convert.gguf_file import GgufFile
from convert.gguf_tokenizer import make_companions
from convert.recipe import Options
from mm1_mlx.errors import CheckpointError, ConfigError, MM1Error

IDS = mx.arange(3, 40)[None]
PACKED = [kind.name for kind in KINDS.values() if kind.unpack]


def new_model(output, decoder, **options):
    options = {"num_visual_tokens": 4} | options
    convert(None, output, options=Options(encoder=str(CLIP), decoder=str(decoder), **options))
    return output


def random_blocks(kind, count=6):
    """Bytes of random blocks whose scales are small finite numbers."""
    blocks = np.random.default_rng(0).integers(0, 256, (count, kind.nbytes), np.uint8)
    halves = {"Q6_K": [208], "Q4_0": [0], "Q5_0": [0], "Q8_0": [0]}.get(kind.name, [0, 2])
    for number, start in enumerate(halves):
        scales = np.linspace(0.001, 0.1, count) * (-1) ** number
        blocks[:, start : start + 2] = scales.astype(np.float16).view(np.uint8).reshape(count, 2)
    return blocks.tobytes()


def read_blocks(path, name):
    kind = KINDS[CODES[name]]
    write_gguf(path, {}, {"x": (name, (2, 3 * kind.length), random_blocks(kind))})
    return GgufFile(path).read("x")


# Numbers


@needs_torch
def test_blocks_hold_the_numbers_that_transformers_reads(subtests, tmp_path):
    dequant = pytest.importorskip("transformers.integrations.gguf.dequant")
    import torch

    for name in PACKED:
        kind = KINDS[CODES[name]]
        if CODES[name] not in dequant.GGML_BLOCK:
            continue
        with subtests.test(name):
            stored = torch.frombuffer(bytearray(random_blocks(kind)), dtype=torch.uint8).reshape(2, -1)
            expected = dequant.dequantize(stored, CODES[name]).reshape(2, -1).numpy()
            assert np.array_equal(np.array(read_blocks(tmp_path / name, name)), expected)


def test_blocks_hold_the_numbers_that_mlx_reads(subtests, tmp_path):
    for name, bits in (("Q4_0", 4), ("Q4_1", 4), ("Q8_0", 8)):
        with subtests.test(name):
            found = read_blocks(tmp_path / f"{name}.gguf", name)
            packed = mx.load(str(tmp_path / f"{name}.gguf"))
            scales, biases = (packed[f"x.{n}"].astype(mx.float32) for n in ("scales", "biases"))
            expected = mx.dequantize(packed["x"], scales, biases, group_size=32, bits=bits)
            assert mx.array_equal(found, expected)


def test_blocks_of_five_bits_hold_the_numbers_that_their_bits_spell(tmp_path):
    low = bytes(range(16))  # the lower numbers are 0 to 15, the upper ones 0
    high = struct.pack("<I", 1 << 3 | 1 << 16)  # 16 more for the numbers 3 and 16
    write_gguf(tmp_path / "a", {}, {"x": ("Q5_0", (1, 32), np.float16(0.5).tobytes() + high + low)})
    expected = [*range(16), *[0] * 16]
    expected[3], expected[16] = 19, 16
    assert GgufFile(tmp_path / "a").read("x").tolist() == [[0.5 * (n - 16) for n in expected]]
    halves = np.float16([0.5, -1]).tobytes()
    write_gguf(tmp_path / "b", {}, {"x": ("Q5_1", (1, 32), halves + high + low)})
    assert GgufFile(tmp_path / "b").read("x").tolist() == [[0.5 * n - 1 for n in expected]]


# Decoders

CASES = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "llama, with biases": {"attention_bias": True, "mlp_bias": True},
    "llama, with wide heads": {"head_dim": 16},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
}


def test_logits_are_those_of_mlx_lm_alone(subtests, tmp_path):
    for name, values in CASES.items():
        with subtests.test(name):
            room = tmp_path / name
            gguf = make_gguf(room, name.partition(",")[0], **values)
            if "head_dim" in values:
                stated = GgufFile(gguf).metadata
                assert stated["llama.attention.key_length"] == 16
            model, _ = mm1_mlx.load(new_model(room / "new", gguf))
            expected = load_model(room / "plain")[0](IDS)
            assert mx.array_equal(model(IDS), expected) and mx.std(expected).item() > 0.1


def test_stretched_positions_are_those_that_mlx_lm_has(subtests, tmp_path):
    turned = 1000.0 ** (mx.arange(4) / 4) * 2 * np.pi  # the tokens after which each pair has turned once
    smooth = mx.clip((8192 / turned - 1) / 3, 0, 1)
    cases = {
        "linear": ({"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}, {}),
        "yarn": (
            {"type": "yarn", "factor": 4.0, "original_context_length": 64},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            {},
        ),
        "llama3": (
            {},
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            {"rope_freqs.weight": 1 / ((1 - smooth) / 8.0 + smooth)},
        ),
    }
    for name, (stated, scaling, tensors) in cases.items():
        with subtests.test(name):
            metadata = {f"llama.rope.scaling.{key}": value for key, value in stated.items()}
            theta = 1e6 if name == "llama3" else 1000.0
            if tensors:
                turned = theta ** (mx.arange(4) / 4) * 2 * np.pi
                smooth = mx.clip((8192 / turned - 1) / 3, 0, 1)
                tensors = {"rope_freqs.weight": 1 / ((1 - smooth) / 8.0 + smooth)}
            values = {"rope_scaling": scaling, "rope_theta": theta}
            gguf = make_gguf(tmp_path / name, "llama", metadata=metadata, tensors=tensors, **values)
            model, _ = mm1_mlx.load(new_model(tmp_path / name / "new", gguf))
            assert model.config.text_config.values["rope_scaling"] == scaling
            assert mx.array_equal(model(IDS), load_model(tmp_path / name / "plain")[0](IDS))


def test_a_file_of_16_bits_keeps_its_type(subtests, tmp_path):
    for dtype in (mx.float16, mx.bfloat16):
        with subtests.test(str(dtype)):
            gguf = make_gguf(tmp_path / str(dtype), "llama", dtype=dtype)
            found = load_weights(new_model(tmp_path / str(dtype) / "new", gguf))
            plain = load_weights(tmp_path / str(dtype) / "plain")
            assert all(mx.array_equal(found[f"decoder.{name}"], value) for name, value in plain.items())
            assert {v.dtype for key, v in found.items() if key.startswith("decoder.")} == {dtype}


def test_packed_weights_become_float32_and_that_is_said(tmp_path, capfd):
    gguf = make_gguf(tmp_path, "llama")
    zeros = {name: ("Q8_0", (80, 32), bytes(80 * 34)) for name in ("token_embd.weight", "output.weight")}
    gguf = make_gguf(tmp_path / "packed", "llama", tensors=zeros)
    argv = ["--encoder", str(CLIP), "--decoder", str(gguf), "--num-visual-tokens", "4"]
    assert main([*argv, "--output", str(tmp_path / "new")]) == 0
    assert "packed weights are unpacked without rounding, to float32" in capfd.readouterr().err
    found = load_weights(tmp_path / "new")["decoder.model.embed_tokens.weight"]
    assert found.dtype == mx.float32 and not found.any()


def test_the_only_gguf_file_of_a_folder_is_taken_and_its_licence_told(tmp_path):
    gguf = make_gguf(tmp_path / "made", "llama")
    (tmp_path / "alone").mkdir()
    gguf.rename(tmp_path / "alone" / "a.gguf")
    folder = new_model(tmp_path / "new", tmp_path / "alone")
    assert "apache-2.0" in (folder / "README.md").read_text()
    assert not (folder / "LICENSE").exists()
    (tmp_path / "alone" / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files \(a\.gguf, b\.gguf\)"):
        new_model(tmp_path / "again", tmp_path / "alone")


# Tokenizers


def test_the_tokenizer_of_the_file_is_written_with_its_chat_template(tmp_path, picture):
    gguf = make_gguf(tmp_path, "llama", metadata={"tokenizer.ggml.eot_token_id": 7})
    model, processor = mm1_mlx.load(new_model(tmp_path / "new", gguf))
    tokenizer = processor.tokenizer
    assert tokenizer.encode("abc ab12</s>") == [14, 15, 16, 17, 2]  # each digit alone
    assert tokenizer.decode([14, 15, 16]) == "abc ab1"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.eos_token_ids == {2, 7}
    assert tokenizer.chat_template == METADATA["tokenizer.chat_template"]
    assert model.config.image_token_id == 3
    assert mm1_mlx.generate(model, processor, "ab", images=[picture], max_tokens=3)


def test_a_text_begins_with_a_token_where_the_file_says_so(tmp_path):
    gguf = make_gguf(tmp_path, "llama", metadata={"tokenizer.ggml.add_bos_token": True})
    _, processor = mm1_mlx.load(new_model(tmp_path / "new", gguf))
    assert processor.tokenizer.encode("ab") == [1, 13]


def test_words_of_llama_3_are_taken_whole_before_they_are_merged(tmp_path):
    metadata = {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.merges": ["a b"]}
    gguf = make_gguf(tmp_path, "llama", metadata=metadata)
    _, processor = mm1_mlx.load(new_model(tmp_path / "new", gguf))
    assert processor.tokenizer.encode("abc") == [1, 14]


def test_a_vocabulary_of_sentencepiece_cuts_text_as_sentencepiece_does(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = "the cat sat on the mat and the dog sat on the cat while a hat sat there\n" * 20
    (tmp_path / "text").write_text(text)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "spm"),
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    size = own.vocab_size()
    kinds = [
        6 if own.is_byte(n) else 2 if own.is_unknown(n) else 3 if own.is_control(n) else 1
        for n in range(size)
    ]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [own.id_to_piece(n) for n in range(size)],
        "tokenizer.ggml.scores": [own.get_score(n) for n in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": None,
    }
    gguf = make_gguf(tmp_path / "made", "llama", metadata=metadata, vocab_size=size)
    _, processor = mm1_mlx.load(new_model(tmp_path / "new", gguf))
    for text in ("the hat sat on the dog", "a cat's mat!  Zoë", "日本"):
        assert processor.tokenizer.encode(text) == [1, *own.encode(text)]
        assert processor.tokenizer.decode(own.encode(text)) == text


# What is refused

REFUSED = {
    "an architecture": (
        {"general.architecture": "gemma3"},
        "holds 'gemma3'; GGUF files of llama, qwen2, qwen3",
    ),
    "a part of several": ({"split.count": 3}, "is one of 3 parts; join them first"),
    "an unknown setting": (
        {"llama.residual_scale": 2.0},
        r"llama\.residual_scale is 2\.0, which is not known",
    ),
    "experts": ({"llama.expert_count": 8}, r"llama\.expert_count is 8, which is not known"),
    "a size that is absent": ({"llama.block_count": None}, r"does not say llama\.block_count"),
    "a size that is text": ({"llama.block_count": "two"}, r"llama\.block_count is 'two', expected int"),
    "heads of several numbers": ({"llama.attention.head_count": [4, 2]}, r"is \[4, 2\], expected int"),
    "positions without a base": ({"llama.rope.freq_base": 0.0}, r"freq_base is 0\.0, expected more than 0"),
    "half of each head turned": (
        {"llama.rope.dimension_count": 4},
        r"rope\.dimension_count is 4, expected 8",
    ),
    "a window": ({"llama.attention.sliding_window": 16}, "sliding_window is 16"),
    "an unknown stretch": ({"llama.rope.scaling.type": "longrope"}, "'longrope'; none, linear and yarn"),
    "an unknown way to cut text": (
        {"tokenizer.ggml.pre": "porcelain"},
        "'porcelain'; gpt-2, smollm, .* are known",
    ),
    "an unknown tokenizer": ({"tokenizer.ggml.model": "bert"}, "its tokenizer is 'bert'; gpt2 and llama"),
    "no tokenizer": ({"tokenizer.ggml.model": None}, "has no tokenizer; give one with `tokenizer`"),
    "merges of no tokens": ({"tokenizer.ggml.merges": ["x y"]}, "do not go with the merge 'x y'"),
    "tokens that are numbers": ({"tokenizer.ggml.tokens": [1, 2]}, "has 2 values, expected a list of str"),
    "an end past the tokens": (
        {"tokenizer.ggml.eos_token_id": 999},
        "eos_token_id is 999, but it has 80 tokens",
    ),
}


def test_what_a_file_says_and_is_not_known_here_is_refused_by_name(subtests, tmp_path):
    for name, (metadata, message) in REFUSED.items():
        with subtests.test(name):
            gguf = make_gguf(tmp_path / name, "llama", metadata=metadata)
            with pytest.raises((CheckpointError, ConfigError), match=message):
                new_model(tmp_path / name / "new", gguf)
            assert not (tmp_path / name / "new").exists()


def test_tensors_that_do_not_fit_are_refused_by_name(subtests, tmp_path):
    cases = {
        "a kind": ({"output.weight": (10, (80, 32), b"")}, "holds tensors of Q2_K, which are not read here"),
        "an unknown kind": ({"output.weight": (99, (80, 32), b"")}, "holds tensors of kind 99"),
        "another name": (
            {"blk.0.attn_qkv.weight": mx.zeros((4, 4))},
            r"holds blk\.0\.attn_qkv\.weight, which",
        ),
        "other factors": (
            {"rope_freqs.weight": mx.array([1.0, 2, 3, 9])},
            "is not what Llama 3.1 and 3.2 have",
        ),
        "part of a block": (
            {"output.weight": ("Q8_0", (80, 33), b"")},
            r"is damaged: output\.weight is \(80, 33\)",
        ),
    }
    for name, (tensors, message) in cases.items():
        with subtests.test(name):
            gguf = make_gguf(tmp_path / name, "llama", tensors=tensors)
            with pytest.raises(CheckpointError, match=message):
                new_model(tmp_path / name / "new", gguf)


def test_a_file_that_is_damaged_is_refused_whatever_byte_is_wrong(tmp_path):
    whole = make_gguf(tmp_path, "llama").read_bytes()
    for size in (0, 3, 4, 20, 200, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut\.gguf (is|holds)"):
            new_model(tmp_path / "new", tmp_path / "cut.gguf")
    choose = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[choose.randrange(4, 6000)] = choose.randrange(256)
        (tmp_path / "flip.gguf").write_bytes(damaged)
        try:
            file = GgufFile(tmp_path / "flip.gguf")
            read_gguf_decoder(file)
            make_companions(file)
        except MM1Error:
            refused += 1
    assert 20 < refused < 200


def test_a_gguf_file_as_source_is_told_where_it_goes(tmp_path, capfd):
    gguf = make_gguf(tmp_path, "llama")
    assert main([str(gguf), "--output", str(tmp_path / "new")]) == 1
    assert "holds a decoder alone; give it as --decoder, with an --encoder." in capfd.readouterr().err


# The image encoder of a model folder


def test_the_image_encoder_of_a_model_folder_is_taken_as_it_is(tmp_path):
    gguf = make_gguf(tmp_path, "llama")
    options = Options(encoder="mm1-tiny", decoder=str(gguf), num_visual_tokens=16)
    convert(None, tmp_path / "new", options=options)
    (model, _), (tiny, _) = mm1_mlx.load(tmp_path / "new"), mm1_mlx.load("mm1-tiny")
    pixels = mx.random.uniform(shape=(1, 126, 126, 3), key=mx.random.key(0))
    assert mx.array_equal(model.image_encoder(pixels), tiny.image_encoder(pixels))
    assert model.config.image_config == tiny.config.image_config
    assert json.loads((tmp_path / "new" / "config.json").read_text())["untrained"] == ["connector"]
