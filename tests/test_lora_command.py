"""``python -m mm1_mlx.lora`` as people run it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from mm1_mlx import tiny
from mm1_mlx.lora import main

QUICK = ("--iters", 4, "--batch-size", 2, "--steps-per-report", 1, "--steps-per-eval", 2, "--save-every", 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of six rows to train, three to validate, three to test."""
    folder = tmp_path_factory.mktemp("rows")
    for number in range(6):
        tiny.render(tiny.make_scene(tiny.TRAINING_SEEDS + 8_100_000 + number)).save(folder / f"{number}.png")
    row = {"question": "What color is it in German?", "answer": "rot"}
    for name, count in (("train", 6), ("valid", 3), ("test", 3)):
        lines = [json.dumps({"image": f"{number}.png"} | row) for number in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def run(run_main, data, tmp_path):
    """Run in this process, the adapter in a folder of its own: exit code, stdout, stderr."""

    def run(*argv, folder=data):
        flags = ["--data", folder, "--adapter-path", tmp_path / "adapters"] if folder else []
        return run_main(main, *flags, *argv)

    return run


def test_a_run_leaves_an_adapter_that_generate_takes(run, tmp_path, data, capsys):
    code, out, err = run("--train", *QUICK)
    assert code == 0, err
    assert "update 4: loss" in out and "update 0: validation loss" in out
    assert "decoder: " in err and " parameters learn" in err
    metrics = [
        json.loads(line) for line in (tmp_path / "adapters" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["update"] for line in metrics if "loss" in line] == [1, 2, 3, 4]
    from mm1_mlx.generate import main as generate

    asked = ["--image", str(data / "0.png"), "--prompt", "What color is it in German?", "--json"]
    assert generate([*asked, "--adapter-path", str(tmp_path / "adapters"), "--max-tokens", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["text"]


def test_json_lines_are_the_metrics(run, tmp_path):
    _, out, _ = run("--train", *QUICK, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    stored = (tmp_path / "adapters" / "metrics.jsonl").read_text().splitlines()
    assert lines == [json.loads(line) for line in stored]


def test_test_rows_are_measured(run):
    code, out, _ = run("--test")
    untuned = json.loads(out)
    assert code == 0 and untuned["test_loss"] > 0 and untuned["test_tokens"] > 3
    code, out, _ = run("--train", *QUICK, "--learning-rate", 1e-3, "--test")
    assert json.loads(out.splitlines()[-1])["test_loss"] < untuned["test_loss"]


@pytest.mark.parametrize("how", ["lora", "dora", "full"])
def test_any_part_learns_in_any_way(run, how):
    code, _, err = run(
        "--train", f"encoder={how}", "connector", f"decoder={how}", "--fine-tune-type", how, *QUICK
    )
    assert code == 0, err
    for part in ("image_encoder", "connector", "decoder"):
        assert f"{part}: 0 of" not in err


def test_mm1s_recipe_trains_everything(run, tmp_path):
    code, _, err = run("--mm1-sft", *QUICK)
    assert code == 0, err
    config = json.loads((tmp_path / "adapters" / "checkpoints" / "00000004" / "run.json").read_text())
    assert config["settings"]["optimizer"] == "adafactor" and config["settings"]["learning_rate"] == 1e-5
    assert {part["how"] for part in config["tuning"].values()} == {"full"}


def test_a_yaml_file_gives_flags_and_the_command_line_wins(run, tmp_path):
    (tmp_path / "recipe.yaml").write_text("learning-rate: 0.002\nrank: 3\niters: 99\ntrain: []\n")
    code, _, err = run("-c", tmp_path / "recipe.yaml", *QUICK)
    assert code == 0, err
    found = json.loads((tmp_path / "adapters" / "checkpoints" / "00000004" / "run.json").read_text())
    assert (found["settings"]["learning_rate"], found["settings"]["iters"]) == (0.002, 4)
    assert found["tuning"]["decoder"]["rank"] == 3


def test_a_run_goes_on_where_it_stopped(run):
    run("--train", *QUICK)
    code, _, err = run("--train", *QUICK)
    assert code == 1 and "is there already; --resume goes on from it" in err
    code, out, err = run("--train", *QUICK, "--resume")
    assert code == 0 and "update" not in out


def test_a_run_whose_metrics_were_torn_goes_on(run, tmp_path):
    run("--train", *QUICK)
    metrics = tmp_path / "adapters" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"update": 5, "lo')
    code, _, err = run("--train", *QUICK, "--resume", "--iters", 5)
    assert code == 0, err
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["update"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]


def test_what_is_there_and_no_run_is_not_replaced(run, tmp_path):
    folder = tmp_path / "adapters"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    code, _, err = run("--train", *QUICK)
    assert code == 1 and f"{folder} holds an adapter already; give another --adapter-path" in err
    (folder / "adapter_config.json").unlink()
    (folder / "metrics.jsonl").write_text('{"mine": 1}\n{"mine": 2}\n')
    code, _, err = run("--train", *QUICK)
    assert code == 1 and "metrics.jsonl is there already and is no file of a run's reports" in err
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]


def test_a_run_with_other_settings_does_not_go_on(run):
    run("--train", *QUICK)
    code, _, err = run("--train", *QUICK, "--resume", "--learning-rate", 0.5)
    assert code == 1 and "settings.learning_rate was 0.00047 and is 0.5" in err


def settings_in(folder):
    newest = max((folder / "checkpoints").iterdir())
    found = json.loads((newest / "run.json").read_text())
    return found["settings"] | found["options"], found["tuning"]


def test_a_run_goes_on_with_its_own_settings_where_none_are_given(run, tmp_path):
    how = (
        "--train",
        "connector=full",
        "decoder=dora",
        "--rank",
        3,
        "--keys",
        "*.q_proj",
        "--schedule",
        "constant",
    )
    run(*how, *QUICK, "--warmup", 1, "--seed", 5)
    before = settings_in(tmp_path / "adapters")
    assert before[0]["steps_per_eval"] == 2
    code, out, err = run("--train", "--resume", "--iters", 6)
    assert code == 0, err
    assert "update 5: loss" in out and "update 6: validation loss" in out
    settings, tuning = settings_in(tmp_path / "adapters")
    assert (settings, tuning) == (before[0] | {"iters": 6}, before[1])


def test_a_run_may_be_watched_otherwise_when_it_goes_on(run, tmp_path):
    run("--train", *QUICK)
    code, out, err = run("--train", "--resume", "--iters", 6, "--steps-per-report", 2, "--rank", 8)
    assert code == 0, err
    assert "update 6: loss" in out and "update 5: loss" not in out
    assert settings_in(tmp_path / "adapters")[0]["steps_per_report"] == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--rank", 4), "tuning.decoder.rank was 8 and is 4"),
        (("--fine-tune-type", "full"), "tuning.decoder.how was 'lora' and is 'full'"),
        (("--iters", 3), "settings.iters was 4 and is 3"),
        (("--truncate",), "settings.truncate was False and is True"),
        (("--mm1-sft",), "settings.optimizer was 'adamw' and is 'adafactor'"),
    ],
)
def test_a_flag_that_is_not_the_runs_is_refused_when_it_goes_on(run, flags, words):
    run("--train", *QUICK)
    code, _, err = run("--train", "--resume", *flags)
    assert code == 1 and words in err and "or another --adapter-path" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(data, tmp_path, number):
    argv = [sys.executable, "-m", "mm1_mlx.lora", "--train", "--data", data, "--adapter-path", tmp_path / "a"]
    argv += ["--iters", 100_000, "--steps-per-report", 1, "--save-every", 100_000]
    process = subprocess.Popen(
        [str(word) for word in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("update 2: loss"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and f"stopped by {number.name}" in err
    assert len(os.listdir(tmp_path / "a" / "checkpoints")) == 1


def test_check_data_tells_what_is_there(run, data):
    code, out, _ = run("--check-data", data, folder=None)
    assert code == 0 and "6" in out and "train" in out


def test_check_data_tells_what_is_wrong_and_exits_1(run, data, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"image": "none.png", "question": "x", "answer": "y"}\n')
    code, out, err = run("--check-data", tmp_path, folder=None)
    assert code == 1 and "none.png" in out and "1 row cannot be used" in err


def test_bad_rows_stop_a_run_or_are_left_out(run, data, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = (data / "train.jsonl").read_text().replace('"', '"').splitlines()
    lines = [
        json.dumps(json.loads(line) | {"image": str(data / json.loads(line)["image"])}) for line in lines
    ]
    (folder / "train.jsonl").write_text("\n".join([*lines, '{"image": "none.png", "caption": "x"}']))
    code, _, err = run("--train", *QUICK, "--batch-size", 7, folder=folder)
    assert code == 1 and "train.jsonl, line 7" in err and "--skip-bad" in err
    code, _, err = run("--train", *QUICK, "--batch-size", 7, "--skip-bad", folder=folder)
    assert code == 0 and "left out" in err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ([], 2, "there is nothing to do; give --train"),
        (["--train", "eye"], 2, "--train eye: expected encoder, connector, decoder"),
        (["--train", "decoder=half"], 2, "--train decoder=half: expected"),
        (["--train", "--rank", 0], 1, "rank is 0"),
        (["--train", "--rank", 100_000], 1, "rank"),
        (["--train", "--keys", "self_atn.q_proj"], 1, "self_attn.q_proj"),
        (["--train", "--iters", 0], 1, "iters is 0, expected more than 0"),
        (["--train", "--learning-rate", "nan"], 1, "learning_rate"),
        (["--train", "--warmup", 5, "--iters", 4], 1, "warmup is 5, expected fewer updates than iters 4"),
        (["--train", "--dropout", 1], 1, "dropout is 1.0"),
        (["--train", "--num-layers", 99], 1, "99"),
        (["--dry-run", "--memory", -16], 2, "--memory is -16.0, expected more than 0 GB"),
        (["--dry-run", "--model", "mm1-7b-9bit"], 1, "mm1-7b-9bit"),
        (["-c", "none.yaml"], 1, "-c none.yaml cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run, argv, code, words):
    found, _, err = run(*argv)
    assert found == code and words in err.splitlines()[-1], err
    assert "Traceback" not in err


def test_a_dry_run_tells_what_a_run_would_take(run):
    code, out, err = run("--dry-run", "--batch-size", 4, "--cache-visual-tokens")
    assert code == 0, err
    assert "train: 6 rows" in out and "decoder: " in out and " fits the " in out.splitlines()[-1]
    kept = next(line for line in out.splitlines() if line.startswith("visual tokens kept"))
    assert float(kept.split()[-2]) < 0.001  # of six pictures, not all that may be kept


def test_a_dry_run_of_rows_that_cannot_be_used_says_so(run, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"image": "none.png", "caption": "x"}\n')
    code, _, err = run("--dry-run", folder=tmp_path)
    assert code == 1 and "no row of the first update can be used; --check-data" in err


def test_an_unknown_key_in_a_yaml_file_is_named(run, tmp_path):
    (tmp_path / "recipe.yaml").write_text("learning_rat: 1\n")
    code, _, err = run("-c", tmp_path / "recipe.yaml", "--train")
    assert code == 1 and "there is no key 'learning_rat'; did you mean learning_rate?" in err


def test_missing_data_is_refused(run, tmp_path):
    code, _, err = run("--train", "--data", tmp_path / "none", folder=None)
    assert code == 1 and "is no folder here and no hub id" in err
    code, _, err = run("--train", folder=None)
    assert code == 2 and "--data is missing" in err


def test_a_data_set_without_test_rows_cannot_be_tested(run, data, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "hello"}\n')
    code, _, err = run("--test", folder=folder)
    assert code == 1 and "there is no test.jsonl in" in err
