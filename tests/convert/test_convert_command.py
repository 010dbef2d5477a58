"""The command as people run it: every mistake in one clear line, and nothing half-written left behind."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest
from stand_in import HONEYBEE, NO_UNPAD, copy_folder, make_model, make_source, write_tokenizer

import mm1_mlx.files.shards
from convert.__main__ import main

SECOND = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
AGAIN = "download it again."


@pytest.fixture
def source(tmp_path):
    """A copy of a good checkpoint, to be damaged."""
    return copy_folder(make_source(HONEYBEE), tmp_path / "source")


@pytest.fixture
def run(run_main):
    """Run in this process: exit code, stdout, stderr."""

    return partial(run_main, main)


@pytest.fixture
def refused(run, tmp_path):
    """Convert what cannot be converted: the message, in one line, and nothing is written."""

    def refused(*argv):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(*argv, "--output", tmp_path / "out")
        assert (code, out) == (1, "") and err.startswith("mm1: ") and err.count("\n") == 1, err
        assert sorted(tmp_path.rglob("*")) == before
        return err.removeprefix("mm1: ").removesuffix("\n").replace(str(tmp_path), "TMP")

    return refused


def tensors_of(folder):
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        found |= mx.load(str(path))
    mx.eval(found)
    return found


def store(folder, tensors):
    """Give a source other tensors."""
    for path in folder.glob("model*"):
        path.unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


def edit(folder, section=None, **keys):
    """Change keys of config.json, or of one of its sections."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    (values if section is None else values[section]).update(keys)
    path.write_text(json.dumps(values))
    return folder


# A good run


def test_the_size_of_what_was_written_goes_to_stdout_and_the_progress_to_stderr(run, source, tmp_path):
    code, out, err = run(source, "--output", tmp_path / "out")
    assert (code, out) == (0, f"{tmp_path / 'out'}: 0.000 GB, 32.00 bits per weight\n")
    assert SECOND in err and "100%" in err


def test_converting_twice_gives_the_same_bytes(run, source, tmp_path):
    for name in ("one", "two"):
        run(source, "--output", tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        if path.name != "README.md":  # names its folder
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_folders_above_the_output_are_made(run, source, tmp_path):
    assert run(source, "--output", tmp_path / "a" / "b" / "out")[0] == 0
    assert (tmp_path / "a" / "b" / "out" / "config.json").exists()


def test_the_dtype_can_be_chosen(run, source, tmp_path):
    assert run(source, "--output", tmp_path / "out", "--dtype", "float16")[0] == 0
    assert {value.dtype for value in tensors_of(tmp_path / "out").values()} == {mx.float16}


def test_what_transparent_pixels_become_is_the_sources_rule_or_chosen(run, source, tmp_path):
    for name, argv in (("own", []), ("white", ["--alpha", "white"])):
        assert run(source, "--output", tmp_path / name, *argv)[0] == 0
    assert run(tmp_path / "own", "--output", tmp_path / "again", "--alpha", "white")[0] == 0
    found = [
        json.loads((tmp_path / name / "config.json").read_text())["image_config"].get("alpha", "white")
        for name in ("own", "white", "again")
    ]
    assert found == ["drop", "white", "white"]


def test_overwrite_replaces_the_whole_folder(run, source, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("config.json", "model.safetensors", "old"):
        (tmp_path / "out" / name).touch()
    assert run(source, "--output", tmp_path / "out", "--overwrite")[0] == 0
    assert not (tmp_path / "out" / "old").exists() and (tmp_path / "out" / "config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


# What is no checkpoint


def test_a_folder_without_configuration(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty") == "TMP/empty has no config.json."


def test_a_name_that_is_neither_folder_nor_hub_id(refused):
    message = (
        "'no-such-model' is no folder or file here and no hub id, which is owner/name or owner/name@revision."
    )
    assert refused("no-such-model") == message


def test_an_unknown_layout_tells_the_keys_seen_and_the_layouts_known(refused, source):
    assert refused(edit(source, architectures=["LlavaForCausalLM"], model_type="llava")) == (
        "TMP/source: this layout is not known: model_type is 'llava', architectures ['LlavaForCausalLM'], keys "
        "architectures, lm_config, model_type, projector_config, text_config, torch_dtype, transformers_version, "
        "vision_config. Known are honeybee, hyperclovax, qh360vl, kanana, mm1 (--source names one); an encoder and a "
        "decoder of their own go together with --encoder and --decoder."
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not valid JSON (Expecting property name"),
        ("[]", "holds list, expected a JSON object."),
        ("", "is not valid JSON (Expecting value"),
    ],
)
def test_a_configuration_that_is_no_json_object(refused, source, text, message):
    (source / "config.json").write_text(text)
    assert refused(source).startswith(f"TMP/source/config.json {message}")


def test_nothing_given(refused):
    message = "nothing to convert: give SOURCE, or --encoder and --decoder for a new model."
    assert refused() == message


def test_an_encoder_without_a_decoder(refused, source):
    message = "nothing to convert: give SOURCE, or --encoder and --decoder for a new model."
    assert refused("--encoder", source) == message


# Incomplete and damaged weights


def test_no_weights_at_all(refused, source):
    for path in source.glob("*.safetensors*"):
        path.unlink()
    assert refused(source).startswith(
        "TMP/source holds no weights; looked for model.safetensors.index.json, "
    )


def test_a_missing_shard(refused, source):
    (source / SECOND).unlink()
    assert refused(source) == (
        f"TMP/source/{INDEX} names TMP/source/{SECOND}, which is missing; download what is missing."
    )


def test_a_missing_shard_without_an_index(refused, source):
    (source / SECOND).unlink()
    (source / INDEX).unlink()
    assert refused(source) == (
        f"TMP/source/model-00001-of-00002.safetensors is one of 2 shards, but {SECOND} is missing; download or convert it again."
    )


def test_a_truncated_shard(refused, source):
    data = (source / SECOND).read_bytes()
    (source / SECOND).write_bytes(data[:-1000])
    assert refused(source) == (
        f"TMP/source/{SECOND} is damaged or no safetensors file (incomplete metadata, file not fully covered; "
        f"it has {len(data) - 1000} bytes); {AGAIN}"
    )


def test_a_shard_cut_off_in_its_header(refused, source):
    (source / SECOND).write_bytes((source / SECOND).read_bytes()[:100])
    assert refused(source) == (
        f"TMP/source/{SECOND} is damaged or no safetensors file (invalid header length; it has 100 bytes); {AGAIN}"
    )


def test_an_index_that_names_absent_files(refused, source):
    index = json.loads((source / INDEX).read_text())
    names = {"model-00001-of-00002.safetensors": "a.safetensors", SECOND: "b.safetensors"}
    index["weight_map"] = {key: names[shard] for key, shard in index["weight_map"].items()}
    (source / INDEX).write_text(json.dumps(index))
    assert refused(source) == (
        f"TMP/source/{INDEX} names TMP/source/a.safetensors, which is missing, and 1 more; download what is missing."
    )


def test_an_index_that_places_a_tensor_where_it_is_not(refused, source):
    index = json.loads((source / INDEX).read_text())
    index["weight_map"]["extra.weight"] = SECOND
    (source / INDEX).write_text(json.dumps(index))
    assert refused(source) == f"TMP/source/{SECOND} lacks extra.weight, which the index places there; {AGAIN}"


# Tensors and configuration of two models


def test_a_shape_that_does_not_fit_the_configuration(refused, source):
    assert refused(edit(source, "text_config", intermediate_size=50)) == (
        "TMP/source: language_model.model.layers.0.mlp.down_proj.weight is (32, 48), which gives "
        "decoder.model.layers.0.mlp.down_proj.weight (32, 48), but config.json asks for (32, 50): it belongs to "
        "another model."
    )


ENCODER, BLOCK = "vision_model.vision_model.", "abstractor.net.0.b1."
LOST = {
    f"{BLOCK}conv1.conv.weight": (32, 32, 3, 3),  # only a 1 x 1 convolution is a linear layer
    f"{BLOCK}se.fc1.weight": (8, 32, 2, 1),
    f"{ENCODER}embeddings.position_embedding.weight": (70, 32),  # 8 x 8 patches and a class token
    f"{ENCODER}embeddings.patch_embedding.weight": (32, 3 * 14 * 14),  # in which order?
    "abstractor.pos_emb": (2, 64, 32),
    "language_model.lm_head.weight": (70, 32),
}


@pytest.mark.parametrize("key", LOST)
def test_a_tensor_of_which_a_part_would_be_lost(refused, source, key):
    store(source, tensors_of(source) | {key: mx.zeros(LOST[key])})
    message = (
        f"TMP/source: {key} is {LOST[key]}, which does not fit; its config.json belongs to another model."
    )
    assert refused(source) == message


@pytest.mark.parametrize("key", ["pos_emb", "net.0.b1.conv1.conv.weight", "readout.0.weight"])
def test_a_connector_of_tensors_with_too_few_axes(refused, source, key):
    store(source, tensors_of(source) | {f"abstractor.{key}": mx.zeros(3)})
    assert refused(source).startswith(f"TMP/source: the connector's {key} is (3,), expected ")


def test_an_image_size_that_leaves_positions_over(refused, source):
    assert refused(edit(source, "vision_config", image_size=98)) == (
        f"TMP/source: {ENCODER}embeddings.position_embedding.weight is (65, 32), which does not fit; its config.json "
        "belongs to another model."
    )


def test_weights_that_are_integers(refused, source):
    key = "language_model.model.norm.weight"
    store(source, tensors_of(source) | {key: mx.ones(32, dtype=mx.int32)})
    assert refused(source) == f"TMP/source: {key} holds mlx.core.int32, expected floating-point weights."


def test_weights_that_are_not_finite(run, source, tmp_path):
    key = "language_model.model.norm.weight"
    store(source, tensors_of(source) | {key: mx.full(32, float("nan"))})
    code, out, err = run(source, "--output", tmp_path / "out")
    assert (code, out) == (1, "") and not (tmp_path / "out").exists()
    assert last_line(err) == f"mm1: {key} holds NaN or infinity: the checkpoint is damaged."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_more_layers_in_the_configuration_than_in_the_tensors(refused, source):
    assert refused(edit(source, "text_config", num_hidden_layers=3)) == (
        "TMP/source lacks language_model.model.layers.2.input_layernorm.weight, "
        "language_model.model.layers.2.mlp.down_proj.weight, language_model.model.layers.2.mlp.gate_proj.weight and "
        "6 more; a shard is missing, or its config.json belongs to another model."
    )


def test_a_tensor_that_no_layout_has(refused, source):
    tensors = tensors_of(source) | {"abstractor.net.0.b3.foo": mx.zeros(3)}
    message = refused(store(source, tensors))
    assert message.startswith(
        "TMP/source holds abstractor.net.0.b3.foo, which a checkpoint of its config.json does not have."
    )
    assert " The nearest known key is abstractor.net." in message


def test_a_connector_that_contradicts_its_configuration(refused, source):
    message = "TMP/source/config.json: projector_config: depth is 3, but the tensors say 2."
    assert refused(edit(source, "projector_config", depth=3)) == message


def test_a_number_of_visual_tokens_that_is_no_square(refused, source):
    message = refused(edit(source, "projector_config", num_query_tokens=10))
    assert message.endswith("num_visual_tokens is 10, not a perfect square; the nearest are 9 and 16.")


def test_a_size_that_the_configuration_lacks(refused, source):
    assert refused(edit(source, "text_config", hidden_size=None)) == (
        "TMP/source/config.json: text_config has no 'hidden_size', and it cannot be derived; add it to the file."
    )


def test_a_d_abstractor_by_its_configuration(refused, source):
    assert refused(edit(source, "projector_config", projector_type="d-abs")) == (
        "TMP/source/config.json: projector_config: projector_type is 'd-abs'; MM1's connector is the C-Abstractor "
        "('c-abs'), and only that is converted: take a Honeybee-C checkpoint."
    )


def test_a_d_abstractor_by_its_tensors(refused, source):
    others = {key: value for key, value in tensors_of(source).items() if not key.startswith("abstractor.")}
    detr = {
        "layers.0.self_attn.q_proj.weight": (4, 4),
        "reference_points": (1, 9, 2),
        "v_pos_emb": (1, 64, 4),
    }
    store(source, others | {f"abstractor.{key}": mx.zeros(shape) for key, shape in detr.items()})
    assert refused(source) == (
        "TMP/source: the connector is a D-Abstractor (Honeybee-D, a deformable DETR decoder), not MM1's C-Abstractor; "
        "convert a Honeybee-C checkpoint."
    )


def test_a_checkpoint_without_connector(refused, source):
    store(source, {key: v for key, v in tensors_of(source).items() if not key.startswith("abstractor.")})
    assert refused(source).startswith("TMP/source: no C-Abstractor is here: readout.0.weight is absent; ")


@pytest.mark.parametrize("kind", ["hyperclovax", "qh360vl", "kanana", "mm1"])
def test_a_layout_that_is_not_the_folders(refused, source, kind):
    message = f"TMP/source: config.json is honeybee's, not {kind}'s; drop --source."
    assert refused(source, "--source", kind) == message


# The output


def test_the_source_as_output(run, source, tmp_path):
    before = {path: path.read_bytes() for path in source.iterdir()}
    for more in ([], ["--overwrite"]):
        code, _, err = run(source, "--output", source, *more)
        assert (code, err) == (1, f"mm1: {source} is the source itself; choose another --output.\n")
    assert {path: path.read_bytes() for path in source.iterdir()} == before


def test_an_output_that_exists(refused, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    assert refused(source) == "TMP/out exists; choose another folder or overwrite it."


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_an_output_that_is_a_file(refused, source, tmp_path, more):
    (tmp_path / "out").write_text("precious")
    assert refused(source, *more) == "TMP/out is a file; choose another folder."
    assert (tmp_path / "out").read_text() == "precious"


def test_a_full_disk_is_seen_before_anything_is_written(refused, source, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    assert refused(source) == "TMP has 0.0 GB free, but the model needs 0.1 GB."


def test_no_output_is_a_usage_error(run, source):
    code, out, err = run(source)
    assert (code, out) == (2, "") and err.endswith(
        "the following arguments are required: --output/--mlx-path\n"
    )


# Flags


@pytest.mark.parametrize(
    "flags",
    [
        *(("--q-bits", "8"), ("--q-group-size", "32"), ("--q-group-size", "0"), ("--q-mode", "mxfp4")),
        *(("--q-mixed",), ("--q-encoder",), ("--q-connector",)),
    ],
)
def test_packing_without_q(refused, source, flags):
    assert refused(source, *flags) == "the --q-… flags need -q."


def test_a_group_size_that_no_layer_has(refused, source):
    message = "no layer of the decoder has a multiple of 64 inputs; lower the group size."
    assert refused(source, "-q") == f"TMP/source: {message}"


def test_bits_that_a_mode_does_not_have(refused, source):
    message = "mxfp4 has 4 bits in groups of 32; drop the other numbers."
    assert refused(source, "-q", "--q-mode", "mxfp4", "--q-bits", "8") == message


def test_a_model_folder_that_is_quantized_already(refused, run, source, tmp_path):
    run(source, "--output", tmp_path / "q", "-q", "--q-group-size", "32")
    assert refused(tmp_path / "q") == "TMP/q is quantized already; convert the original."


@pytest.mark.parametrize(
    "flags",
    [
        *(("--decoder", "x"), ("--encoder", "x"), ("--connector", "average_pool"), ("--seed", "1")),
        *(("--num-visual-tokens", "9"), ("--feature-layer", "-1")),
    ],
)
def test_flags_that_have_no_say_beside_a_source(refused, source, flags):
    assert refused(source, *flags) == f"{flags[0]} has no say in the conversion of this SOURCE; drop it."


@pytest.mark.parametrize("flag", ["--tokenizer", "--image-token"])
def test_flags_that_have_no_say_beside_a_model_folder(refused, flag):
    message = f"{flag} has no say in the conversion of this SOURCE; drop it."
    assert refused(make_model(HONEYBEE), flag, "x") == message


# The tokenizer


def test_no_tokenizer(refused, source):
    (source / "tokenizer.json").unlink()
    assert refused(source) == (
        "TMP/source has no tokenizer; give one with --tokenizer (a folder or hub id). Its configuration names "
        "'lmsys/vicuna-7b-v1.5'."
    )


def test_a_tokenizer_may_stand_elsewhere(run, source, tmp_path):
    (source / "tokenizer.json").unlink()
    write_tokenizer(tmp_path / "words")
    code, _, _ = run(source, "--tokenizer", tmp_path / "words", "--output", tmp_path / "out")
    assert code == 0 and (tmp_path / "out" / "tokenizer.json").exists()


def test_a_folder_without_tokenizer_given_as_one(refused, source, tmp_path):
    (tmp_path / "empty").mkdir()
    message = "TMP/source: TMP/empty holds no tokenizer.json, tokenizer.model or vocab.json."
    assert refused(source, "--tokenizer", tmp_path / "empty") == message


def test_a_broken_tokenizer(refused, source):
    (source / "tokenizer.json").write_text("{")
    assert refused(source).startswith("the tokenizer of TMP/source cannot be loaded: ")


def test_an_image_token_that_the_tokenizer_lacks(refused, source):
    message = refused(source, "--image-token", "<picture>")
    assert message.startswith("TMP/source: the tokenizer has no token '<picture>' to stand for a picture")
    assert message.endswith("name one of its tokens that text never holds with --image-token.")


def test_the_image_token_can_be_chosen(run, source, tmp_path):
    code, _, _ = run(source, "--image-token", "w7", "--output", tmp_path / "out")
    assert code == 0 and json.loads((tmp_path / "out" / "config.json").read_text())["image_token_id"] == 7


# Permissions


def forbid(monkeypatch, name, pattern):
    """Let a method of Path refuse the files that match."""
    method = getattr(Path, name)

    def refuse(self, *args, **options):
        if self.match(pattern):
            raise PermissionError(13, "Permission denied", str(self))
        return method(self, *args, **options)

    monkeypatch.setattr(Path, name, refuse)


def test_a_shard_that_may_not_be_read(refused, source, monkeypatch):
    forbid(monkeypatch, "open", SECOND)
    assert refused(source) == f"TMP/source/{SECOND} cannot be read: Permission denied."


def test_a_configuration_that_may_not_be_read(refused, source, monkeypatch):
    forbid(monkeypatch, "read_text", "source/config.json")
    assert refused(source) == "TMP/source/config.json cannot be read: Permission denied."


def test_a_place_that_may_not_be_written_to(refused, source, tmp_path, monkeypatch):
    def no_permission(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".out-x"))

    monkeypatch.setattr(Path, "mkdir", no_permission)
    assert refused(source) == "TMP/out: Permission denied."


def test_a_disk_that_fills_up_while_writing(run, source, tmp_path, monkeypatch):
    def disk_full(path, forms, tensors):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mm1_mlx.files.shards, "write_tensors", disk_full)
    code, out, err = run(source, "--output", tmp_path / "out")
    assert (code, out, last_line(err)) == (1, "", f"mm1: {tmp_path / 'out'}: No space left on device.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


# In a process of its own

DRIVER = """
import time
import convert.__main__, convert.conversion

def slowly(shard, names):
    for number, name in enumerate(names):
        if number == 20:
            print("half-way", flush=True)
            time.sleep(60)
        yield name

convert.conversion.progress_bar = slowly
convert.__main__.script()
"""


def start(*argv):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, argv)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def last_line(err):
    assert "Traceback" not in err, err
    return err.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_nothing_behind(number, tmp_path):
    output = tmp_path / "models" / "out"
    with start(make_source(NO_UNPAD), "--output", output) as process:
        assert process.stdout.readline() == "half-way\n"
        (half,) = output.parent.iterdir()
        assert (half / "model.safetensors").exists()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, last_line(err)) == (130, "mm1: interrupted.")
    assert list(output.parent.iterdir()) == []


def test_an_interrupted_conversion_leaves_the_folder_that_it_was_to_replace(tmp_path):
    output = copy_folder(make_model(NO_UNPAD), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with start(make_source(NO_UNPAD), "--output", output, "--overwrite") as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130 and list(tmp_path.iterdir()) == [output]
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_help_loads_neither_mlx_nor_transformers():
    code = (
        "import sys; from convert.__main__ import main\n"
        "for command in ([], ['check'], ['export']):\n"
        "    try: main([*command, '--help'])\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'mlx.core', 'transformers', 'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    for word in ("SOURCE", "--output", "--q-bits", "--reference", "--against-torch", "--overwrite"):
        assert word in done.stdout


def test_help_shows_the_defaults(run):
    code, out, _ = run("--help")
    assert code == 0
    for default in ("(default: 144)", "(default: affine)", "(default: c_abstractor)"):
        assert default in out


def test_a_folder_named_like_a_command_is_converted(run, source, tmp_path, monkeypatch):
    source.rename(tmp_path / "check")
    monkeypatch.chdir(tmp_path)
    assert run("check", "--output", "out")[0] == 0
