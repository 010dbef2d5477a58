"""A dry run reads no weight, takes MM1's presets, and says plainly whether a run fits."""

import json
import subprocess
import sys

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mm1_mlx import load
from mm1_mlx.checkpoint.quantize import quantize
from mm1_mlx.checkpoint.skeleton import is_preset, skeleton
from mm1_mlx.errors import TrainingError
from mm1_mlx.lora import main
from mm1_mlx.sizing.need import Need
from mm1_mlx.training.dry_run import describe_need, memory_of_mac, require_memory
from mm1_mlx.training.recipe import Recipe

GB = 10**9
NEED = Need(
    weights=2 * GB,
    optimizer=GB,
    gradients=GB,
    activations=8 * GB,
    checkpointed=3 * GB,
    updating=GB,
    kept=GB // 2,
)


def test_the_largest_phase_counts_beside_what_stays():
    assert NEED.total(grad_checkpoint=False) == 2 * GB + GB + GB // 2 + GB + 8 * GB
    assert NEED.total(grad_checkpoint=True) == 2 * GB + GB + GB // 2 + GB + 3 * GB


def test_a_run_that_does_not_fit_is_refused_with_what_to_lower():
    with pytest.raises(
        TrainingError, match=r"needs about 12.5 GB .* but there are 10.0 GB; give `grad_checkpoint`"
    ):
        require_memory(NEED, 10 * GB, Recipe())
    checkpointed = Recipe(grad_checkpoint=True)
    require_memory(NEED, 10 * GB, checkpointed)
    with pytest.raises(TrainingError, match=r"7.5 GB .* 7.0 GB; lower `max_seq_length`"):
        require_memory(NEED, 7 * GB, checkpointed)


def test_the_last_line_is_the_verdict():
    assert describe_need(NEED, 13 * GB, Recipe())[-1].endswith("12.500 GB: fits the 13.0 GB there")
    assert describe_need(NEED, 12 * GB, Recipe())[-1].endswith("12.500 GB: does not fit the 12.0 GB there")


def test_macos_lets_the_gpu_have_two_thirds_or_three_quarters():
    assert memory_of_mac(16.0) == 16 * 2**30 * 2 // 3
    assert memory_of_mac(64.0) == 48 * 2**30


def test_a_packed_preset_is_smaller_and_its_image_encoder_is_not():
    plain, packed = (skeleton(name)[0] for name in ("mm1-3b", "mm1-3b-4bit"))

    def size(module):
        return sum(value.nbytes for _, value in tree_flatten(module.parameters()))

    assert size(packed.decoder) < 0.3 * size(plain.decoder)
    assert size(packed.image_encoder) == size(plain.image_encoder)


@pytest.mark.parametrize("name", ["mm1-tiny", "folder", "mm1-7b-9bit", "org/mm1-7b"])
def test_other_names_are_no_presets(name):
    assert not is_preset(name)


def test_a_lazy_model_has_its_stored_type_and_the_same_weights():
    lazy, _ = load("mm1-tiny", lazy=True)
    plain, _ = load("mm1-tiny")
    assert lazy.image_encoder.dtype == mx.float16 and plain.image_encoder.dtype == mx.float32
    for (key, one), (_, other) in zip(
        tree_flatten(lazy.parameters()), tree_flatten(plain.parameters()), strict=True
    ):
        assert mx.array_equal(one.astype(mx.float32), other), key


def test_a_preset_is_for_dry_runs_alone(run_main, tmp_path):
    code, _, err = run_main(main, "--train", "--model", "mm1-3b", "--data", tmp_path)
    assert code == 1 and "Traceback" not in err


def test_a_dry_run_says_what_share_of_a_mac_and_whose_tokens_it_reckons_with(run_main):
    code, out, err = run_main(main, "--dry-run", "--model", "mm1-3b-4bit", "--memory", 16)
    assert code == 0, err
    assert out.startswith("mm1-3b-4bit: sizes alone; tokens are counted by mm1-tiny's tokenizer")
    assert "a Mac of 16 GB lets its GPU have two thirds, 11.5 GB\n" in out


@pytest.mark.parametrize("bits", [None, 4])
def test_a_folder_without_its_weights_will_do(tiny_folder, capsys, bits):
    model, processor = load(tiny_folder)
    model.set_dtype(mx.bfloat16)
    if bits:
        packing = {"bits": bits, "group_size": 64, "mode": "affine"}
        quantize(model, bits=bits)
        config = json.loads((tiny_folder / "config.json").read_text()) | {"quantization": packing}
        (tiny_folder / "config.json").write_text(json.dumps(config))
    for file in tiny_folder.glob("model*.safetensors"):
        file.unlink()
    found, other = skeleton(str(tiny_folder))
    assert "are not here; bfloat16 is assumed" in capsys.readouterr().err
    shapes = [
        [(key, value.shape, value.dtype) for key, value in tree_flatten(m.parameters())]
        for m in (model, found)
    ]
    assert shapes[0] == shapes[1]
    assert other.image_token == processor.image_token


def test_of_a_hub_id_no_weights_are_downloaded(tiny_folder, monkeypatch):
    asked = []

    def snapshot(name, allow_patterns, **options):
        asked.extend(allow_patterns)
        return tiny_folder

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, **options: tiny_folder / file)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    skeleton("owner/name")
    assert "*.json" in asked and not any("safetensors" in pattern for pattern in asked)


def test_the_update_of_a_7b_model_is_foreseen_in_little_memory():
    code = (
        "from mm1_mlx.command import peak_resident_memory; from mm1_mlx.lora import main\n"
        "before = peak_resident_memory()  # Linux hands down that of the process that started this one\n"
        "assert main(['--dry-run', '--model', 'mm1-7b', '--memory', '64']) == 0\n"
        "assert peak_resident_memory() < max(before + 1, 1e9), 'a GB and more'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "assumed: 16 rows" in done.stdout and "decoder: 19,988,480 of 6,630,477,824" in done.stdout
