"""Fusing as people do it: a model folder and adapters in, a model folder out; and ``--adapter-path`` everywhere."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hub_stand_in import TOKEN, Hub
from tuned_models import compute_logits, make, save_adapter, tuning

from mm1_mlx import load, quantize, save
from mm1_mlx.arrays import flatten, main_dtype
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.model.mm1 import count_parameters
from mm1_mlx.tuning.settings import PartTuning

command = importlib.import_module("mm1_mlx.fuse")
generate = importlib.import_module("mm1_mlx.generate")
ROOT = Path(__file__).parents[1]
HOW = tuning(connector=PartTuning("full"), decoder=PartTuning("lora", rank=4))


@pytest.fixture
def run(run_main):
    """Run in this process: exit code, stdout, stderr."""
    return lambda *argv, command=command: run_main(command.main, *argv)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A model in 16 bits, the same packed, and adapters of both."""
    room = tmp_path_factory.mktemp("fuse")
    for name, bits in (("model", None), ("packed", 8)):
        model = make()
        model = quantize(model, bits=bits, group_size=32) if bits else model
        save(model, room / name, companions=find_folder("mm1-tiny"), dtype=mx.float16)
    save_adapter(room / "model", room / "one", HOW)
    save_adapter(room / "packed", room / "packed one", HOW)
    save_adapter(room / "model", room / "one 32", HOW, dtype="float32")
    save_adapter(room / "model", room / "two 32", HOW, dtype="float32", seed=2)
    return room


def types_of(folder):
    return {value.dtype for value in mx.load(str(folder / "model.safetensors")).values()}


def refused(result, *words, exit_code=1):
    code, out, err = result
    assert (code, out, len(err.splitlines())) == (exit_code, "", 1), err
    for word in ("mm1: ", *words):
        assert word in err


def test_the_fused_model_answers_as_the_adapter_did_and_is_stored_as_the_model_was(run, room, tmp_path):
    made = tmp_path / "fused"
    code, out, _ = run("--model", room / "model", "--adapter-path", room / "one", "--save-path", made)
    assert (code, out) == (0, f"{made}\n")
    unfused, _ = load(room / "model", adapter_path=room / "one")
    difference = np.abs(compute_logits(load(made)[0]) - compute_logits(unfused)).max()
    assert difference < 0.01 * compute_logits(unfused).std()  # stored in 16 bits
    assert types_of(made) == {mx.float16}


def test_a_full_disk_is_one_line_with_the_folder(run, room, tmp_path, small_files):
    with small_files(100_000):
        argv = ("--model", room / "model", "--adapter-path", room / "one", "--save-path", tmp_path / "fused")
        refused(run(*argv), f"mm1: {tmp_path / 'fused'}: File too large.")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_no_model_is_not_replaced(run, room, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    argv = ("--model", room / "model", "--adapter-path", room / "one", "--save-path", tmp_path, "--overwrite")
    refused(run(*argv), f"{tmp_path} has no config.json, so it is not what is written here")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_in_float32_fused_equals_unfused(run, room, tmp_path):
    made = tmp_path / "fused"
    argv = ("--model", room / "model", "--adapter-path", room / "one 32", "--dtype", "float32")
    assert run(*argv, "--save-path", made)[0] == 0
    unfused, _ = load(room / "model", adapter_path=room / "one 32", dtype="float32")
    np.testing.assert_allclose(compute_logits(load(made)[0]), compute_logits(unfused), rtol=0, atol=5e-5)


def test_several_adapters_are_fused_with_their_weights(run, room, tmp_path):
    made, weights = tmp_path / "fused", {room / "one 32": 0.25, room / "two 32": 0.5}
    argv = [word for path, weight in weights.items() for word in ("--adapter-path", f"{path}={weight}")]
    code, _, _ = run("--model", room / "model", *argv, "--save-path", made, "--dtype", "float32")
    unfused, _ = load(room / "model", adapter_path=weights, dtype="float32")
    assert code == 0
    np.testing.assert_allclose(compute_logits(load(made)[0]), compute_logits(unfused), rtol=0, atol=5e-5)


@pytest.mark.parametrize("dequantize", [False, True])
def test_a_packed_model_stays_packed_or_not(dequantize, run, room, tmp_path):
    made, flag = tmp_path / "fused", ["--dequantize"] if dequantize else []
    argv = ("--model", room / "packed", "--adapter-path", room / "packed one", "--save-path", made)
    assert run(*argv, *flag)[0] == 0
    assert ("quantization" in json.loads((made / "config.json").read_text())) == (not dequantize)
    assert types_of(made) == ({mx.float16} if dequantize else {mx.float16, mx.uint32})
    unfused, _ = load(room / "packed", adapter_path=room / "packed one")
    difference = np.abs(compute_logits(load(made)[0]) - compute_logits(unfused)).mean()
    assert difference < 0.05 * compute_logits(unfused).std()


def test_the_card_is_that_of_the_fused_model(run, room, tmp_path):
    for model, adapter, weights in (
        ("model", "one", "| weights | float16 |"),
        ("packed", "packed one", "| weights | float16, quantized to "),
    ):
        made = tmp_path / f"fused {model}"
        run("--model", room / model, "--adapter-path", room / adapter, "--save-path", made)
        card = (made / "README.md").read_text()
        assert f"# fused {model}\n\n`{model} with adapters fused into its weights` as a model folder" in card
        assert weights in card and f"--model 'fused {model}' --image" in card
        assert "no other model has the same" in card and "untrained" not in card
    bits = float(card.partition("quantized to ")[2].split()[0])
    count = count_parameters(load(room / "model", lazy=True)[0])
    nbytes = sum(value.nbytes for value in mx.load(str(made / "model.safetensors")).values())
    assert bits == pytest.approx(8 * nbytes / count, rel=0.01)


def test_each_weight_keeps_the_type_that_the_model_folder_has_it_in(run, tmp_path):
    model = make()
    types = {
        key: mx.bfloat16 if key.startswith("decoder.") else mx.float16 for key in flatten(model.parameters())
    }
    save(model, tmp_path / "model", companions=find_folder("mm1-tiny"), dtype=types)
    save_adapter(tmp_path / "model", tmp_path / "adapter", HOW)
    argv = ("--model", tmp_path / "model", "--adapter-path", tmp_path / "adapter")
    assert run(*argv, "--save-path", tmp_path / "fused")[0] == 0
    found = mx.load(str(tmp_path / "fused" / "model.safetensors"))
    assert {key: value.dtype for key, value in found.items()} == types
    main = main_dtype(found.values())
    assert (
        f"| weights | {str(main).removeprefix('mlx.core.')} |"
        in (tmp_path / "fused" / "README.md").read_text()
    )
    assert run(*argv, "--save-path", tmp_path / "wide", "--dtype", "float32")[0] == 0
    assert types_of(tmp_path / "wide") == {mx.float32}


def test_a_connector_that_was_trained_is_not_called_untrained(run, room, tmp_path):
    folder = Path(shutil.copytree(room / "model", tmp_path / "new"))
    config = json.loads((folder / "config.json").read_text()) | {"untrained": ["connector"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("**The connector is untrained: answers are noise until trained.**")
    save_adapter(folder, tmp_path / "adapter", HOW)
    made = tmp_path / "fused"
    run("--model", folder, "--adapter-path", tmp_path / "adapter", "--save-path", made)
    assert "untrained" not in (made / "README.md").read_text()
    assert "untrained" not in json.loads((made / "config.json").read_text())


def test_generate_answers_with_an_adapter(run, room, picture):
    ask = ("--model", room / "model", "--image", picture, "--prompt", "What is it?", "--max-tokens", 8)
    plain, tuned = (run(*ask, *more, command=generate)[1] for more in ((), ("--adapter-path", room / "one")))
    assert plain != tuned
    halved = run(*ask, "--adapter-path", f"{room / 'one'}=0", command=generate)[1]
    assert halved == plain


def test_an_equals_sign_in_a_folders_name_is_no_weight(run, room, tmp_path):
    (tmp_path / "a=b").symlink_to(room / "one")
    argv = ("--model", room / "model", "--adapter-path", tmp_path / "a=b", "--save-path", tmp_path / "fused")
    assert run(*argv)[0] == 0


@pytest.mark.parametrize(
    ("argv", "words", "exit_code"),
    [
        ([], ["nothing to fuse; give --adapter-path DIR"], 2),
        (["--adapter-path", "a", "--adapter-path", "a=0.5"], ["a is given twice"], 2),
        (["--adapter-path", "a"], ["a has no adapter_config.json"], 1),
        (["--adapter-path", "7"], ["7 has no adapter_config.json"], 1),
        (["--adapter-path", "a", "--upload-repo", "a/b/c"], ["'a/b/c' is no hub id"], 1),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(argv, words, exit_code, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run(*argv), *words, exit_code=exit_code)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_model_is_refused(run, room, tmp_path):
    argv = ("--model", room / "packed", "--adapter-path", room / "one", "--save-path", tmp_path / "fused")
    refused(run(*argv), "one was tuned on another model")
    assert not (tmp_path / "fused").exists()


def test_an_existing_folder_is_replaced_only_when_asked(run, room, tmp_path):
    argv = ("--model", room / "model", "--adapter-path", room / "one", "--save-path", tmp_path)
    refused(run(*argv), "exists; choose another folder or --overwrite it")
    assert run(*argv, "--overwrite")[0] == 0
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("token", [TOKEN, None], ids=["logged in", "not logged in"])
def test_the_fused_model_is_uploaded(token, room, tmp_path):
    argv = ("--model", room / "model", "--adapter-path", room / "one", "--upload-repo", "me/fused")
    with Hub() as hub:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        here = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"} | ({"HF_TOKEN": token} if token else {})
        done = subprocess.run(
            [sys.executable, "-m", "mm1_mlx.fuse", *map(str, argv)],
            env=kept | home | here, cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        if token is None:
            assert done.returncode == 1 and "log in with `hf auth login`" in done.stderr
            assert not hub.requests and not (tmp_path / "fused_model").exists()
            return
        assert done.stdout == f"fused_model\n{hub.url}/me/fused\n", done.stderr
        files = {path.name: path.read_bytes() for path in (tmp_path / "fused_model").iterdir()}
        assert hub.repos["me/fused"].files == files
