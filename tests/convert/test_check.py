"""The check of a model folder: what it finds, what it keeps, what it refuses."""

import json
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from small_models import TINY_FOLDER
from stand_in import (
    ANYRES,
    HONEYBEE,
    KANANA,
    KINDS,
    NO_UNPAD,
    QH360VL,
    copy_folder,
    load_weights,
    make_model,
    make_source,
    needs_torch,
)

from convert.__main__ import main
from convert.check import check, write_report
from convert.conversion import convert
from mm1_mlx.checkpoint.quantize import Packing
from mm1_mlx.errors import CheckpointError

TORCH = [pytest.param(name, marks=needs_torch) for name in KINDS]


@pytest.fixture
def folder(tmp_path):
    """A copy of a converted folder, to be checked or damaged."""
    return copy_folder(make_model(NO_UNPAD), tmp_path / "model")


@pytest.fixture(scope="module")
def tiny_at_8_bits(tmp_path_factory):
    """mm1-tiny with 8 bits for a decoder's weight."""
    output = tmp_path_factory.mktemp("quantized") / "mm1-tiny"
    convert(str(TINY_FOLDER), output, packing=Packing(bits=8))
    return output


@pytest.fixture
def run(capsys):
    """Run ``check`` in this process: exit code, stdout, stderr."""

    def run(*argv):
        capsys.readouterr()  # of the fixtures
        return main(["check", *map(str, argv)]), *capsys.readouterr()

    return run


def reference(name):
    return make_source(name) / "io.safetensors"


def change(folder, key, by=0.5):
    """Move one weight of a model folder."""
    weights = load_weights(folder)
    mx.eval(weights)
    weights[key] = weights[key] + by * mx.random.normal(weights[key].shape, key=mx.random.key(0))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def rows(report):
    return {row.stage: row for row in report.rows}


# Against a reference run


def test_a_folder_that_agrees_prints_its_stages_and_exits_0(run, folder):
    code, out, err = run(folder, "--reference", reference(NO_UNPAD))
    assert (code, err) == (0, "")
    assert "vision.hidden_2 " in out and "greedy_0 " in out and "FAILED" not in out


@pytest.mark.parametrize(
    "key, stage",
    [
        ("image_encoder.patch_embedding.weight", "vision.hidden_2"),
        ("image_encoder.layers.1.feed_forward.fc2.bias", "vision.hidden_2"),
        ("connector.before.0.conv2.weight", "connector.after_pool_nchw"),
        ("connector.after.2.squeeze_excite.fc1.bias", "connector.output"),
        ("connector.readout.1.weight", "connector.output"),
        ("decoder.model.embed_tokens.weight", "lm.inputs_embeds_0"),
        ("decoder.model.layers.0.mlp.up_proj.weight", "lm.top1_0 disagreement (share)"),
        ("decoder.lm_head.weight", "lm.top1_0 disagreement (share)"),
    ],
)
def test_a_wrong_weight_exits_1_and_names_the_first_stage_that_differs(run, folder, key, stage):
    code, out, err = run(change(folder, key), "--reference", reference(NO_UNPAD))
    assert code == 1
    assert err.startswith("mm1: ") and err.endswith(f" stages differ, the first at {stage}.\n")
    assert next(line for line in out.splitlines() if "FAILED" in line).startswith(f"{stage} ")


def test_a_weight_that_is_off_by_little_is_found(run, folder):
    code, _, err = run(
        change(folder, "connector.after.0.norm1.weight", by=1e-3), "--reference", reference(NO_UNPAD)
    )
    assert code == 1 and "the first at connector.output." in err


def checked(folder, **options):
    """Check a folder, and keep what was found in it."""
    found = check(folder, **options)
    write_report(found, folder)
    return found


def test_the_result_is_kept_as_json(run, folder):
    run(folder, "--reference", reference(NO_UNPAD))
    kept = json.loads((folder / "parity.json").read_text())
    assert kept == check(folder, reference=reference(NO_UNPAD)).to_dict()
    assert kept["passed"] is True and (kept["reference"], kept["dtype"]) == ("io.safetensors", "float32")
    assert set(kept["stages"][0]) == {"stage", "max_abs", "max_rel", "tolerance", "passed"}


def test_the_result_stands_in_the_card(folder):
    before = (folder / "README.md").read_text()
    assert "Not checked against PyTorch." in before
    checked(folder, reference=reference(NO_UNPAD))
    after = (folder / "README.md").read_text()
    assert "Not checked" not in after
    assert "Against `io.safetensors`, every stage is within its tolerance." in after
    assert "| connector.output | " in after and after.startswith(before.split("## Parity")[0])


def test_a_second_check_takes_the_place_of_the_first(folder):
    checked(folder, reference=reference(NO_UNPAD))
    checked(change(folder, "connector.readout.1.bias"), reference=reference(NO_UNPAD))
    card = (folder / "README.md").read_text()
    assert "**not every stage is within its tolerance**" in card and card.count("## Parity") == 1


def test_a_failed_check_is_kept_too(run, folder):
    run(change(folder, "connector.readout.1.bias"), "--reference", reference(NO_UNPAD))
    kept = json.loads((folder / "parity.json").read_text())
    assert kept["passed"] is False
    assert [row["passed"] for row in kept["stages"] if row["stage"] == "connector.output"] == [False]


def test_what_is_not_finite_is_kept_as_valid_json(folder, tmp_path):
    broken = mx.load(str(reference(NO_UNPAD)))
    broken["lm.logits_0"] = broken["lm.logits_0"] * float("nan")
    mx.save_safetensors(str(tmp_path / "x.safetensors"), broken)
    assert not checked(folder, reference=tmp_path / "x.safetensors").passed
    text = (folder / "parity.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert "not finite" in (folder / "README.md").read_text()


def test_a_folder_without_a_card_is_checked_all_the_same(folder):
    (folder / "README.md").unlink()
    assert checked(folder, reference=reference(NO_UNPAD)).passed
    assert not (folder / "README.md").exists()


def test_a_folder_that_cannot_be_written_to_is_named_below_the_table(run, folder, monkeypatch):
    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    code, out, err = run(folder, "--reference", reference(NO_UNPAD))
    assert code == 1 and "greedy_0 " in out
    assert err == f"mm1: {folder / 'parity.json'} cannot be written: Permission denied.\n"


def test_the_packages_own_model_is_checked_and_left_as_it_is(run):
    before = sorted(path.name for path in TINY_FOLDER.iterdir())
    code, out, _ = run("mm1-tiny", "--against", "mm1-tiny", "--num-questions", 1)
    assert code == 0 and "top-1 disagreement" in out
    assert sorted(path.name for path in TINY_FOLDER.iterdir()) == before


# References that do not fit


@pytest.mark.parametrize("name", [HONEYBEE, ANYRES, QH360VL, KANANA])
def test_a_reference_for_another_model_is_refused(run, folder, name):
    code, out, err = run(folder, "--reference", reference(name))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("mm1: ")


@pytest.mark.parametrize("name", [HONEYBEE, ANYRES, NO_UNPAD, KANANA])
def test_a_reference_for_another_model_is_refused_for_360vl_too(run, name):
    code, out, err = run(make_model(QH360VL), "--reference", reference(name))
    assert (code, out) == (1, "") and err.endswith("it was made for another model.\n")


DAMAGES = {
    "pixels of other axes": ("pixel_values_0", lambda x: mx.moveaxis(x, 1, -1)),
    "pixels without views": ("pixel_values_0", lambda x: x[0]),
    "no view at all": ("pixel_values_0", lambda x: x[:0]),
    "pixels smaller than a patch": ("pixel_values_0", lambda x: x[:, :, :10, :10]),
    "no sizes": ("image_sizes_wh", None),
    "sizes without axes": ("image_sizes_wh", lambda x: x[0]),
    "prompts of two axes": ("input_ids_0", lambda x: x[None]),
    "prompts of fractions": ("input_ids_0", lambda x: x.astype(mx.float32)),
    "an empty prompt": ("input_ids_0", lambda x: x[:0]),
    "ids past the vocabulary": ("input_ids_0", lambda x: x + 80),
    "more places than pictures": ("input_ids_0", lambda x: mx.array([1, 70, 5, 70])),
    "fewer logits than tokens": ("lm.logits_0", lambda x: x[:3]),
    "logits of another vocabulary": ("lm.logits_0", lambda x: x[:, :70]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_reference_is_refused_in_one_line(damage, run, folder, tmp_path):
    name, change = DAMAGES[damage]
    tensors = mx.load(str(reference(NO_UNPAD)))
    value = tensors.pop(name)
    if change is not None:
        tensors[name] = change(value)
    mx.save_safetensors(str(tmp_path / "x.safetensors"), tensors)
    code, out, err = run(folder, "--reference", tmp_path / "x.safetensors")
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert (err.startswith("mm1: ") and name.split("_")[0] in err) or "a prompt of the reference" in err


def test_a_reference_that_is_not_there_is_refused(run, folder, tmp_path):
    code, _, err = run(folder, "--reference", tmp_path / "none.safetensors")
    message = "give the safetensors file of a reference run."
    assert (code, err) == (1, f"mm1: there is no file {tmp_path / 'none.safetensors'}; {message}\n")


def test_a_reference_without_pixels_is_refused(run, folder, tmp_path):
    mx.save_safetensors(str(tmp_path / "x.safetensors"), {"lm.logits": mx.zeros((3, 80))})
    code, _, err = run(folder, "--reference", tmp_path / "x.safetensors")
    assert code == 1 and "holds no pixel_values or windows_pixel_values; its tensors are lm.logits." in err


def test_a_reference_that_compares_nothing_is_refused(run, folder, tmp_path):
    given = {k: v for k, v in mx.load(str(reference(NO_UNPAD))).items() if k.startswith(("pixel", "image_s"))}
    mx.save_safetensors(str(tmp_path / "x.safetensors"), given)
    code, _, err = run(folder, "--reference", tmp_path / "x.safetensors")
    assert (code, err) == (1, "mm1: the reference holds no stage that this model has.\n")


def test_a_reference_that_is_no_safetensors_file_is_refused(run, folder):
    code, _, err = run(folder, "--reference", folder / "config.json")
    assert code == 1 and "config.json is damaged or no safetensors file" in err


def test_stages_that_the_model_lacks_are_named(folder, tmp_path):
    stored = mx.load(str(reference(NO_UNPAD)))
    mx.save_safetensors(str(tmp_path / "x.safetensors"), stored | {"vision.hidden_99": mx.zeros((2, 2))})
    found = check(folder, reference=tmp_path / "x.safetensors")
    assert found.not_compared == ["vision.hidden_99"]
    assert found.table().endswith("not compared: vision.hidden_99")


@pytest.mark.parametrize("missing", [(), ("--reference", "a", "--against", "b")])
def test_one_reference_is_asked_for(folder, missing, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", str(folder), *missing])
    assert stop.value.code == 2 and "--against" in capsys.readouterr().err


# Fewer bits

REPORTED = {"lm.top1_0 disagreement (share)", "lm.kl_0, mean (nats)"}


def test_in_float16_the_answers_are_reported_and_not_judged(folder):
    found = checked(folder, reference=reference(NO_UNPAD), dtype="float16")
    assert set(rows(found)) == REPORTED and found.passed is None
    assert 0 <= rows(found)["lm.kl_0, mean (nats)"].max_abs < 1e-3
    assert "in float16; no tolerance holds" in (folder / "README.md").read_text()


def test_of_a_quantized_folder_the_answers_are_reported_and_not_judged(tmp_path):
    convert(str(make_source(NO_UNPAD)), tmp_path / "out", packing=Packing(bits=8, group_size=32))
    found = check(tmp_path / "out", reference=reference(NO_UNPAD))
    assert set(rows(found)) == REPORTED and found.passed is None
    assert 0 < rows(found)["lm.kl_0, mean (nats)"].max_abs < 0.01


def test_reported_rows_say_so(run, folder):
    code, out, _ = run(folder, "--reference", reference(NO_UNPAD), "--dtype", "bfloat16")
    assert code == 0 and all(line.endswith("reported") for line in out.splitlines()[1:])


# Against another folder of the same model


def test_eight_bits_hardly_change_an_answer(run, tiny_at_8_bits):
    code, out, _ = run(tiny_at_8_bits, "--against", "mm1-tiny", "--num-questions", 4)
    stages = json.loads((tiny_at_8_bits / "parity.json").read_text())["stages"]
    kept = {row["stage"]: row["max_abs"] for row in stages}
    assert code == 0 and all(stage in out for stage in kept)
    assert 0 < kept["KL divergence, mean (nats)"] <= kept["KL divergence, largest (nats)"] < 0.01
    assert kept["top-1 disagreement (share of tokens)"] < 0.05


def test_of_equal_folders_the_divergence_is_exactly_0(tiny_folder):
    found = check(tiny_folder, original="mm1-tiny", num_questions=2)
    assert [row.max_abs for row in found.rows] == [0.0, 0.0, 0.0]


def test_noise_in_the_weights_shows_as_divergence(tiny_folder):
    change(tiny_folder, "decoder.embed_tokens.weight", by=0.2)
    found = rows(check(tiny_folder, original="mm1-tiny", num_questions=2))
    assert found["KL divergence, mean (nats)"].max_abs > 0.01
    assert found["top-1 disagreement (share of tokens)"].max_abs > 0


def test_models_of_different_vocabularies_are_refused(run, tiny_folder):
    code, _, err = run(tiny_folder, "--against", make_model(NO_UNPAD))
    assert code == 1 and "tokens: these are two models." in err


@pytest.mark.parametrize("number", ["0", "-3"])
def test_at_least_one_question_is_asked(run, tiny_folder, number):
    code, _, err = run(tiny_folder, "--against", "mm1-tiny", "--num-questions", number)
    assert (code, err) == (1, f"mm1: --num-questions is {number}, expected at least 1.\n")


# Against PyTorch


@pytest.mark.parametrize("name", TORCH)
def test_encoder_and_decoder_agree_with_transformers(name, tmp_path):
    folder = copy_folder(make_model(name), tmp_path / "model")
    found = check(folder, torch_source=str(make_source(name)))
    assert found.passed and {"vision.hidden_0", "lm.logits"} <= set(rows(found))


@needs_torch
@pytest.mark.parametrize(
    "name, key, stage",
    [
        (HONEYBEE, "image_encoder.layers.0.attention.k_proj.weight", "vision.hidden_1"),
        (NO_UNPAD, "image_encoder.position_embedding", "vision.hidden_0"),
        (QH360VL, "decoder.model.layers.1.self_attn.v_proj.weight", "lm."),
    ],
)
def test_a_weight_that_differs_from_the_checkpoint_is_found(name, key, stage, run, tmp_path):
    folder = change(copy_folder(make_model(name), tmp_path / "model"), key)
    code, _, err = run(folder, "--against-torch", make_source(name))
    assert code == 1 and f"stages differ, the first at {stage}" in err


@needs_torch
def test_the_card_tells_that_pytorch_was_run(tmp_path):
    folder = copy_folder(make_model(HONEYBEE), tmp_path / "model")
    checked(folder, torch_source=str(make_source(HONEYBEE)))
    card = (folder / "README.md").read_text()
    assert "Against `PyTorch, " in card and "every stage is within its tolerance." in card


def test_without_torch_it_is_asked_for(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"`torch_source` needs torch: pip install 'mm1-mlx\[torch\]'"):
        check(folder, torch_source=str(make_source(NO_UNPAD)))
