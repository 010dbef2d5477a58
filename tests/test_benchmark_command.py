"""The benchmark as people run it: a table or JSON, and every mistake in one clear line."""

import importlib
import json
import subprocess
import sys
from functools import partial

import pytest
from small_models import TINY_FOLDER

command = importlib.import_module("mm1_mlx.benchmark")
QUICK = ("--repeats", 2, "--max-tokens", 3, "--prompt-tokens", 4, "--picture-size", 60, 40)


@pytest.fixture
def run(run_main, monkeypatch):
    """Run in this process on a machine whose limits are known: exit code, stdout, stderr."""
    measure = importlib.import_module("mm1_mlx.sizing.measure")
    monkeypatch.setattr(measure, "measure_limits", lambda dtype: measure.Limits(1e12, 1e10, 256))

    return partial(run_main, command.main)


def test_the_table_has_every_phase_and_unit(run):
    code, out, err = run(*QUICK)
    assert code == 0 and err == "measuring case 1 of 1\n"
    for word in (*command.LABELS.values(), "ms", "GFLOP/s", "GB/s", "tokens/s", "peak memory", "max %"):
        assert word in out
    assert "16 visual and 4 text tokens" in out


def test_json_holds_positive_medians_and_phases_within_the_total(run):
    code, out, _ = run(*QUICK, "--json", "--num-images", 1, 2)
    found = json.loads(out)
    assert code == 0 and [case["num_images"] for case in found["cases"]] == [1, 2]
    for case in found["cases"]:
        phases = case["phases"]
        assert set(phases) == set(command.LABELS)
        for phase in phases.values():
            assert 0 < phase["min_seconds"] <= phase["median_seconds"] <= phase["max_seconds"]
        before = [phases[name]["seconds"] for name in phases if name not in ("first_token", "decode")]
        for parts, total in zip(zip(*before, strict=True), phases["first_token"]["seconds"], strict=True):
            assert sum(parts) <= total
        assert phases["encoder"]["flops_share"] == pytest.approx(
            phases["encoder"]["flops"] / phases["encoder"]["median_seconds"] / 1e12
        )
        assert case["decode_tokens_per_second"] > 0 and case["peak_memory_bytes"] > 0


def test_a_model_folder_and_a_config_give_the_same_sizes(run):
    _, folder, _ = run(*QUICK, "--json", "--model", TINY_FOLDER)
    _, config, _ = run(*QUICK, "--json", "--config", TINY_FOLDER / "config.json")
    flops = [json.loads(out)["cases"][0]["phases"]["prefill"]["flops"] for out in (folder, config)]
    assert flops[0] == flops[1] > 0


def test_parts_can_be_replaced_and_shortened(run):
    _, out, _ = run(
        *QUICK,
        "--json",
        "--encoder",
        "vit-l-14-336",
        "--encoder-layers",
        2,
        "--decoder-dims",
        128,
        "--layers",
        1,
    )
    found = json.loads(out)
    assert found["encoder_layers"] == 1  # CLIP's features are taken before the last layer
    assert found["decoder_layers"] == 1
    assert found["cases"][0]["phases"]["encoder"]["flops"] > 2 * 576 * 12 * 1024**2


def test_quadrants_are_five_views(run):
    _, out, _ = run(*QUICK, "--json", "--sub-images", "quadrants")
    case = json.loads(out)["cases"][0]
    assert (case["views"], case["visual_tokens"]) == (5, 80)


def test_the_limits_of_the_machine_are_positive():
    import mlx.core as mx

    from mm1_mlx.sizing.measure import measure_limits

    limits = measure_limits(mx.float32)
    assert limits.flops_per_second > 1e8 and limits.bytes_per_second > 1e8


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "mm1-5b"], "no preset is named 'mm1-5b'; there are mm1-tiny, mm1-3b"),
        (["--encoder", "vit-g"], "no image encoder is named 'vit-g'; there are vit-l-14-336"),
        (["--layers", "5"], "--layers is 5, but the decoder has 4."),
        (["--encoder-layers", "6"], "--encoder-layers is 6, but the image encoder has 5."),
        (["--num-images", "1", "0"], "--num-images is 0, expected at least 1 and less than 2^31."),
        (["--num-images", 20 * "9"], "expected at least 1 and less than 2^31."),
        (["--num-images", "2000000000"], "32,000,000,000 visual tokens, 32 of text"),
        (["--seed", str(2**64)], "expected at least 0 and less than 2^64."),
        (["--decoder-dims", str(2**27)], "lower --layers or --decoder-dims."),
        (["--max-tokens", "1"], "--max-tokens is 1, expected at least 2 and less than 2^31."),
        (["--repeats", "0"], "--repeats is 0, expected at least 1 and less than 2^31."),
        (["--decoder-dims", "100"], "--decoder-dims is 100, expected a multiple of 128."),
        (["--picture-size", "0", "5"], "--picture-size is 0 x 5 pixels"),
        (
            ["--num-images", "70"],
            "1,120 visual tokens, 32 of text and 32 of answer pass the model's context, 1,024",
        ),
        (["--config", "nowhere/config.json"], "nowhere has no config.json"),
        (["--model", "mm1-tiny", "--layers", "2"], "--layers changes a model of random weights"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(run, argv, message):
    code, out, err = run(*argv)
    assert (code, out) == (1, "")
    assert err.startswith("mm1: ") and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "argv", [["--preset", "mm1-3b", "--model", "mm1-tiny"], ["--dtype", "int8"], ["--sub-images", "many"]]
)
def test_wrong_usage_exits_with_2(run, argv):
    assert run(*argv)[0] == 2


def test_help_loads_no_mlx():
    code = (
        "import sys; from mm1_mlx.benchmark import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'mlx.core', 'transformers', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
