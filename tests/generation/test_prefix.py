from pathlib import Path

import mlx.core as mx
import pytest

import mm1_mlx
from mm1_mlx import tiny
from mm1_mlx.errors import CheckpointError, SamplingError
from mm1_mlx.generation import stream_generate
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.inputs.content import content_of


@pytest.fixture(scope="module")
def pictures():
    return [tiny.render(tiny.make_scene(tiny.TESTING_SEEDS + seed)) for seed in range(2)]


def run(mm1_tiny, prompt, images=(), **options):
    pieces = list(stream_generate(*mm1_tiny, prompt, images=images, max_tokens=4, **options))
    return "".join(piece.text for piece in pieces), pieces[-1].timing


def chat(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_a_second_turn_reads_its_new_tokens_alone(mm1_tiny, pictures):
    prefix = Prefix(mm1_tiny[0])
    first = "<image>What color is it?"
    answer, timing = run(mm1_tiny, chat(first), pictures[:1], prefix=prefix)
    assert (timing.prefilled_tokens, timing.encoded_views) == (timing.prompt_tokens, 1)
    held = len(prefix)
    again, timing = run(mm1_tiny, chat(first, answer, "What shape is it?"), pictures[:1], prefix=prefix)
    assert timing.encoded_views == 0
    assert timing.prefilled_tokens <= timing.prompt_tokens - held + 1
    assert again == run(mm1_tiny, chat(first, answer, "What shape is it?"), pictures[:1])[0]


def test_a_second_turn_has_the_logits_of_the_whole_prompt(mm1_tiny, pictures):
    model, processor = mm1_tiny
    prefix = Prefix(model)
    answer, _ = run(mm1_tiny, chat("<image>What color is it?"), pictures[:1], prefix=prefix)
    inputs = processor(chat("<image>What color is it?", answer, "How many objects are there?"), pictures[:1])
    content = content_of(inputs, model.config.image_token_id)
    start = prefix.keep_shared(content)
    assert 0 < start < len(content)
    short = model(inputs.input_ids[None, start:], cache=prefix.cache)[0, -1]
    whole = model(inputs.input_ids[None], inputs.pixel_values)[0, -1]
    assert mx.abs(short - whole).max().item() < 1e-4


def test_after_an_answer_that_is_cut_short_the_cache_is_what_it_says(mm1_tiny, pictures):
    prefix = Prefix(mm1_tiny[0])
    pieces = stream_generate(*mm1_tiny, "Describe the picture.", images=pictures[:1], prefix=prefix)
    next(pieces)
    pieces.close()
    assert len(prefix) == prefix.cache[0].offset
    answer, _ = run(mm1_tiny, "What color is it?", pictures[:1], prefix=prefix)
    assert answer == run(mm1_tiny, "What color is it?", pictures[:1])[0]


def test_another_picture_in_the_same_words_is_read_anew(mm1_tiny, pictures):
    prefix = Prefix(mm1_tiny[0])
    run(mm1_tiny, "What color is it?", pictures[:1], prefix=prefix)
    answer, timing = run(mm1_tiny, "What color is it?", pictures[1:], prefix=prefix)
    assert timing.encoded_views == 1
    assert answer == run(mm1_tiny, "What color is it?", pictures[1:])[0]


def test_the_same_prompt_again_reads_one_token(mm1_tiny, pictures):
    prefix = Prefix(mm1_tiny[0])
    first, _ = run(mm1_tiny, "What color is it?", pictures[:1], prefix=prefix)
    second, timing = run(mm1_tiny, "What color is it?", pictures[:1], prefix=prefix)
    assert (second, timing.prefilled_tokens, timing.encoded_views) == (first, 1, 0)


def test_a_shared_picture_before_another_question_is_kept(mm1_tiny, pictures):
    prefix = Prefix(mm1_tiny[0])
    run(mm1_tiny, "<image>What color is it?", pictures[:1], prefix=prefix)
    answer, timing = run(mm1_tiny, "<image>How many objects are there?", pictures[:1], prefix=prefix)
    assert timing.encoded_views == 0 and timing.prefilled_tokens < timing.prompt_tokens
    assert answer == run(mm1_tiny, "<image>How many objects are there?", pictures[:1])[0]


def test_forks_grow_apart(mm1_tiny, pictures):
    shared = Prefix(mm1_tiny[0])
    run(mm1_tiny, "<image>What color is it?", pictures[:1], prefix=shared)
    forked = shared.fork()
    run(mm1_tiny, "<image>How many objects are there?", pictures[:1], prefix=forked)
    answer, timing = run(mm1_tiny, "<image>What color is it?", pictures[:1], prefix=shared)
    assert timing.prefilled_tokens == 1
    assert answer == run(mm1_tiny, "<image>What color is it?", pictures[:1])[0]


def test_a_saved_prefix_goes_on_in_another_process(mm1_tiny, pictures, tmp_path):
    model = mm1_tiny[0]
    prefix = Prefix(model)
    first, _ = run(mm1_tiny, "What color is it?", pictures[:1], prefix=prefix)
    prefix.save(tmp_path / "prompt.safetensors")
    loaded = Prefix.load(tmp_path / "prompt.safetensors", model)
    second, timing = run(mm1_tiny, "What color is it?", pictures[:1], prefix=loaded)
    assert (second, timing.prefilled_tokens) == (first, 1)


def test_a_prefix_of_another_model_is_refused(mm1_tiny, pictures, tiny_folder, tmp_path):
    prefix = Prefix(mm1_tiny[0])
    run(mm1_tiny, "What color is it?", pictures[:1], prefix=prefix)
    path = tmp_path / "prompt.safetensors"
    prefix.save(path)
    other, _ = mm1_mlx.load(tiny_folder)
    layer = other.decoder.layers[0].mlp.up_proj
    layer.weight[0, 0] = layer.weight[0, 0] + 1e-3
    with pytest.raises(CheckpointError, match="was made by another model or other weights; make it again"):
        Prefix.load(path, other)


def test_what_is_no_prefix_is_refused(mm1_tiny, tmp_path):
    path = tmp_path / "prompt.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is no saved prompt cache"):
        Prefix.load(path, mm1_tiny[0])


def test_a_prefix_excludes_other_caches(mm1_tiny):
    with pytest.raises(SamplingError, match="a prefix has its own KV cache"):
        run(mm1_tiny, "What is it?", prefix=Prefix(mm1_tiny[0]), kv_bits=8)


def test_a_full_disk_leaves_the_earlier_file(mm1_tiny, tmp_path, small_files):
    path = tmp_path / "prompt.safetensors"
    prefix = Prefix(mm1_tiny[0])
    run(mm1_tiny, "What is it?", prefix=prefix)
    prefix.save(path)
    earlier = path.read_bytes()
    with small_files(1000), pytest.raises(CheckpointError, match=r"the prompt cache .* cannot be written"):
        prefix.save(path)
    assert path.read_bytes() == earlier and list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_kind_is_not_replaced(mm1_tiny, tmp_path):
    prefix = Prefix(mm1_tiny[0])
    run(mm1_tiny, "What is it?", prefix=prefix)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"a": mx.zeros(2)})
    (tmp_path / "notes").write_text("mine")
    for path in (tmp_path / "model.safetensors", tmp_path / "notes"):
        before = path.read_bytes()
        with pytest.raises(CheckpointError, match="is there already and is no saved prompt cache"):
            prefix.save(path)
        assert path.read_bytes() == before


def test_what_does_not_fit_the_model_is_refused(mm1_tiny, tmp_path, subtests):
    """Each file is sound for ``save``, but cannot be a cache of this model and this content."""

    def grow(prefix):
        prefix.content = [*prefix.content, 1]

    def skip(prefix):
        prefix.cache[0].offset -= 1

    def drop(prefix):
        prefix.cache.pop()

    def narrow(prefix):
        prefix.cache[1].keys = prefix.cache[1].keys[..., :-1]

    def flatten(prefix):
        prefix.cache[1].values = prefix.cache[1].values[0]

    def cut(prefix):
        for layer in prefix.cache:
            layer.keys = layer.keys[:, :, :3]

    def halve(prefix):
        prefix.cache[1].keys = prefix.cache[1].keys.astype(mx.float16)

    def pack(prefix):
        prefix.kv_bits = 8

    def misplace(prefix):
        prefix.pictures = [(2, 10**6, "a")]

    for damage, words in (
        (grow, "layer 1 holds 12 positions, expected 13"),
        (skip, "layer 1 holds 11 positions, expected 12"),
        (drop, "it has 3 layers, expected 4"),
        (narrow, "layer 2 is "),
        (flatten, "layer 2 is "),
        (cut, "layer 1 is "),
        (halve, "layer 2 holds mlx.core.float16, expected mlx.core.float32"),
        (pack, "layer 1 is KVCache, expected QuantizedKVCache"),
        (misplace, "a picture is said to be at 2 to 1000000 of 12 positions"),
    ):
        with subtests.test(damage.__name__):
            prefix = Prefix(mm1_tiny[0])
            run(mm1_tiny, "What is it?", prefix=prefix)
            damage(prefix)
            prefix.save(tmp_path / "prompt")
            with pytest.raises(CheckpointError, match=words):
                Prefix.load(tmp_path / "prompt", mm1_tiny[0])


def test_a_changed_byte_is_noticed(mm1_tiny, tmp_path):
    prefix = Prefix(mm1_tiny[0])
    run(mm1_tiny, "What is it?", prefix=prefix)
    prefix.save(tmp_path / "prompt")
    data = (tmp_path / "prompt").read_bytes()
    (tmp_path / "prompt").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"damaged .its content is not what was written"):
        Prefix.load(tmp_path / "prompt", mm1_tiny[0])


@pytest.mark.parametrize("name", ["prompt", "prompt.v2", "prompt.safetensors"])
def test_a_prefix_is_saved_under_the_very_name_given(name, mm1_tiny, tmp_path):
    prefix = Prefix(mm1_tiny[0])
    run(mm1_tiny, "What is it?", prefix=prefix)
    prefix.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).stat().st_size
    assert Prefix.load(tmp_path / name, mm1_tiny[0]).content == prefix.content


def test_a_saved_prefix_is_found_from_the_folder_it_is_in(mm1_tiny, tmp_path, monkeypatch):
    prefix = Prefix(mm1_tiny[0])
    run(mm1_tiny, "What is it?", prefix=prefix)
    monkeypatch.chdir(tmp_path)
    prefix.save(Path("prompt"))
    assert Prefix.load(Path("prompt"), mm1_tiny[0]).content == prefix.content


@pytest.mark.parametrize(("name", "reason"), [("none", "cannot be read: No such file"), (".", "is a folder")])
def test_a_prefix_that_cannot_be_read_is_refused(mm1_tiny, tmp_path, name, reason):
    with pytest.raises(CheckpointError, match=reason):
        Prefix.load(tmp_path / name, mm1_tiny[0])
