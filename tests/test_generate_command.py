"""The command as people run it: answers, numbers, and every mistake in one clear line."""

import fcntl
import importlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from functools import partial

import mlx.core as mx
import pytest
from PIL import Image

command = importlib.import_module("mm1_mlx.generate")
ASK = "What color is it?"


@pytest.fixture
def run(run_main):
    """Run in this process: exit code, stdout, stderr."""

    return partial(run_main, command.main)


def refused(result, *words, exit_code=1):
    code, out, err = result
    lines = err.splitlines()
    assert (code, out, len(lines)) == (exit_code, "", 1), err
    assert lines[0].startswith("mm1: ")
    for word in words:
        assert word in lines[0]


def test_an_answer_goes_to_stdout_and_the_numbers_to_stderr(run, picture):
    code, out, err = run("--image", picture, "--prompt", ASK)
    assert code == 0 and out.strip() and out.endswith("\n")
    for word in ("mm1-tiny knows only the tiny world", "Prompt: ", "Generation: ", "Peak memory: "):
        assert word in err and word not in out


def test_verbose_prints_every_phase(run, picture):
    _, _, err = run("--image", picture, "--prompt", ASK, "--verbose")
    for phase in (
        "Preprocess",
        "Encoder",
        "Connector",
        "Prefill",
        "Time to first token",
        "Decode",
        "Peak memory",
    ):
        assert f"{phase}: " in err


def test_json_is_one_object_with_answer_and_numbers(run, picture):
    _, plain, _ = run("--image", picture, "--prompt", ASK)
    _, out, _ = run("--image", picture, "--prompt", ASK, "--json")
    answer = json.loads(out)
    assert answer["text"] == plain.strip()
    assert {"preprocess", "encoder", "connector", "prefill", "first_token", "decode", "peak_memory"} <= set(
        answer
    )


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(run, picture):
    ask = ("--image", picture, "--prompt", "Describe the picture.", "--max-tokens", 8)
    whole = run(*ask)[1]
    second = whole.split()[1]
    assert run(*ask, "--stop", "?!", "--stop", f" {second}")[:2] == (
        0,
        whole.partition(f" {second}")[0] + "\n",
    )
    refused(run(*ask, "--stop", ""), "--stop is empty", exit_code=2)


def test_several_pictures_in_one_flag_or_many(run, picture):
    both = [run("--image", picture, picture, "--prompt", ASK, "--json", "--max-tokens", 1)]
    both.append(run("--image", picture, "--image", picture, "--prompt", ASK, "--json", "--max-tokens", 1))
    assert [json.loads(out)["visual_tokens"] for _, out, _ in both] == [32, 32]


def test_the_prompt_may_come_from_stdin(run, picture, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(ASK))
    assert run("--image", picture, "--prompt", "-")[1] == run("--image", picture, "--prompt", ASK)[1]


def test_a_picture_may_come_from_stdin(run, picture, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
    assert run("--image", "-", "--prompt", ASK)[1] == run("--image", picture, "--prompt", ASK)[1]


def test_text_alone_is_answered(run):
    code, out, _ = run("--prompt", "Hello!")
    assert code == 0 and out.strip()


def test_a_missing_picture(run):
    refused(run("--image", "nowhere.png", "--prompt", ASK), "no picture at nowhere.png")


def test_an_unreadable_picture(run, tmp_path):
    refused(run("--image", tmp_path, "--prompt", ASK), "is a folder")


def test_a_truncated_picture(run, picture, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(picture.read_bytes()[:300])
    refused(run("--image", path, "--prompt", ASK), "cut.png is damaged or cut short")


def test_an_empty_picture(run, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    refused(run("--image", tmp_path / "empty.png", "--prompt", ASK), "0 bytes")


def test_a_text_file_named_png(run, tmp_path):
    (tmp_path / "text.png").write_text("Dear diary")
    refused(run("--image", tmp_path / "text.png", "--prompt", ASK), "not a picture", "'Dear diary'")


def test_a_decompression_bomb_names_the_limit_and_the_flag(run, tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    refused(
        run("--image", tmp_path / "bomb.png", "--prompt", ASK),
        "200,000,000",
        "150,000,000",
        "--max-image-pixels",
    )


def test_the_pixel_limit_can_be_set(run, picture):
    refused(
        run("--image", picture, "--prompt", ASK, "--max-image-pixels", "100"), "126 x 126", "limit of 100"
    )


def test_more_places_than_pictures(run, picture):
    refused(run("--image", picture, "--prompt", "<image><image> same?"), "2 <image> but 1 --image was given")


def test_more_pictures_than_places(run, picture):
    result = run("--image", picture, picture, "--prompt", "<image> what?")
    refused(result, "1 <image> but 2 --image were given")


def test_a_place_without_any_picture(run):
    refused(run("--prompt", "<image> what?"), "1 <image> but 0 --image were given")


def test_an_empty_prompt(run, picture):
    refused(run("--image", picture, "--prompt", "  "), "prompt is empty")


def test_an_unknown_model(run):
    refused(run("--model", "mm1-large", "--prompt", ASK), "'mm1-large'", "mm1-tiny")


def test_a_folder_that_is_no_model(run, tmp_path):
    refused(run("--model", tmp_path, "--prompt", ASK), "no config.json")


@pytest.mark.parametrize("flag, value", [("--temp", "-1"), ("--top-p", "2"), ("--min-p", "-0.5"), ("--top-k", "-2"), ("--max-tokens", "-1"), ("--max-kv-size", "1"), ("--kv-bits", "9"), ("--seed", "-1"), ("--prefill-step-size", "0"), ("--max-image-pixels", "0")])  # fmt: skip
def test_absurd_values_name_their_flag(run, picture, flag, value):
    refused(
        run("--image", picture, "--prompt", ASK, flag, value),
        f"{flag} is {float(value) if '.' in value or flag in ('--temp', '--top-p') else value}",
    )


def test_a_prompt_longer_than_the_context(run, picture):
    refused(run("--image", picture, "--prompt", "red " * 2000), "context is 1,024", "shorten")


def test_two_readers_of_stdin(run):
    refused(run("--image", "-", "--prompt", "-"), "stdin can be read once", exit_code=2)
    refused(run("--image", "-", "-", "--prompt", ASK), "stdin can be read once", exit_code=2)


def test_a_wrong_flag_is_a_usage_error(run):
    code, _, err = run("--promt", "x")
    assert code == 2 and "usage:" in err


def test_help_shows_every_default(run):
    code, out, _ = run("--help")
    assert code == 0
    for line in ("(default: mm1-tiny)", "(default: 256)", "(default: 0.0)", "(default: 2048)"):
        assert line in out


def subprocess_command(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mm1_mlx.generate", *map(str, argv)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
    )


def unread_bytes(pipe):
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


def test_ctrl_c_exits_130_without_a_traceback():
    with subprocess_command("--image", "-", "--prompt", ASK, stdin=subprocess.PIPE) as process:
        process.stdin.write(" ")
        process.stdin.flush()
        while unread_bytes(process.stdin):
            time.sleep(0.05)
        time.sleep(0.2)  # now the command waits for more
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        err = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in err and "interrupted" in err


def test_ctrl_c_during_an_answer_keeps_what_was_said(run, picture, monkeypatch):
    import mm1_mlx.generation

    whole = mm1_mlx.generation.stream_generate

    def interrupted(*args, **options):
        yield next(whole(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(mm1_mlx.generation, "stream_generate", interrupted)
    code, out, err = run("--image", picture, "--prompt", "Describe the picture.")
    assert code == 130 and out and "interrupted" in err


def test_a_reader_that_goes_away_is_no_error(picture):
    process = subprocess_command("--image", picture, "--prompt", "Describe the picture in detail.")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert "Traceback" not in err and "BrokenPipe" not in err


def test_the_console_script_runs():
    script = shutil.which("mm1_mlx.generate", path=str(sys.prefix) + "/bin")
    assert "--prompt" in subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full device")
def test_a_full_disk_behind_stdout(picture):
    with open("/dev/full", "w") as full:
        process = subprocess_command("--image", picture, "--prompt", ASK, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "mm1: No space left on device." in err and "Traceback" not in err


def test_an_answer_that_the_terminal_cannot_show_is_no_error(picture):
    process = subprocess_command("--prompt", ASK, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_stdin_that_is_no_text():
    process = subprocess_command("--prompt", "-", stdin=subprocess.PIPE, text=False)
    _, err = process.communicate(b"\xff\xfe\x00", timeout=60)
    assert process.returncode == 1 and err.startswith(b"mm1: ") and err.count(b"\n") == 1


def test_a_prompt_with_a_broken_byte(run):
    refused(run("--prompt", "caf\udce9"), "not valid Unicode")


def damage_config(folder, **changes):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["vision_config"] |= changes
    path.write_text(json.dumps(values))


def damage_weights(folder, key, value):
    path = str(folder / "model.safetensors")
    weights = dict(mx.load(path))
    weights[key] = weights[key][:0] if value is None else weights[key] * value
    mx.eval(weights)
    if value is None:
        del weights[key]
    mx.save_safetensors(path, weights)


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "which is missing; download what is missing",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    "broken weights": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "is damaged"),
    "unknown key": (lambda f: damage_config(f, patch_sise=1), "unknown key 'patch_sise'"),
    "misshapen": (lambda f: damage_config(f, feed_forward_dims=511), "expected (511,"),
    "missing": (lambda f: damage_weights(f, "decoder.norm.weight", None), "lacks decoder.norm.weight"),
    "extra": (lambda f: damage_config(f, num_layers=1), "which the configuration has no place for"),
    "nan": (
        lambda f: damage_weights(f, "decoder.norm.weight", mx.nan),
        "NaN or infinity in decoder.norm.weight",
    ),
    "infinity": (lambda f: damage_weights(f, "decoder.norm.weight", mx.inf), "NaN or infinity"),
    "broken template": (
        lambda f: (f / "chat_template.jinja").write_text("{{ oh no }"),
        "chat template refuses",
    ),
    "deep json": (lambda f: (f / "config.json").write_text("[" * 100_000), "not valid JSON"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_model_folder(run, tiny_folder, kind):
    damage, words = DAMAGE[kind]
    damage(tiny_folder)
    refused(run("--model", tiny_folder, "--prompt", ASK), words)


@pytest.mark.parametrize("name", ["~nobody/model", "x" * 5000])
def test_odd_model_names(run, name):
    refused(run("--model", name, "--prompt", ASK))
