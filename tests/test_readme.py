"""The README's words, run as they stand."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_command_prints_what_the_readme_says():
    command = blocks("bash")[0].strip().split(" && ")[-1]
    argv = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == blocks("text")[0]
    for word in ("mm1-tiny knows only", "Prompt: ", "Generation: ", "Peak memory: "):
        assert word in done.stderr


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_python_examples_run(number):
    subprocess.run([sys.executable, "-c", blocks("python")[number]], cwd=ROOT, check=True)


SHOWN = [line for block in blocks("bash") for line in block.splitlines() if "mm1_mlx.show" in line]


@pytest.mark.parametrize("line", SHOWN)
def test_what_is_to_be_seen_can_be_seen(line, tmp_path):
    argv = shlex.split(line.replace("PICTURE", str(ROOT / "examples/pictures/shapes.png")), comments=True)
    done = subprocess.run(
        [sys.executable, *argv[1:]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    drawn = list(tmp_path.glob("*.png"))
    assert done.stdout and (bool(drawn) == ("PICTURE" in line))


def test_the_chat_command_answers_on_a_pipe():
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if "mm1_mlx.chat" in line]
    argv = [sys.executable, *shlex.split(line)[1:]]
    asked = "What color is the circle?\nWhat color is the star?\n"
    done = subprocess.run(argv, cwd=ROOT, input=asked, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "purple"
    assert "0 picture views encoded" in done.stderr.splitlines()[-1]


HOME = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def test_linked_files_exist(subtests):
    links = re.findall(rf"\]\({HOME}/([^)]+)\)", README)
    assert links
    for link in links:
        with subtests.test(msg=link):
            kind, branch, path = link.split("/", 2)
            assert branch == "main" and (ROOT / path).exists()
            assert kind == ("tree" if (ROOT / path).is_dir() else "blob")


def test_links_lead_there_from_the_package_index_too():
    assert not re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)


def test_the_continuous_integration_runs_the_readmes_question():
    script = (ROOT / ".ci" / "run").read_text()
    assert '--prompt "What color is the circle?"' in script
    assert f'"{blocks("text")[0].strip()}"' in script


def test_no_placeholder_is_left():
    assert not re.findall(r"\b(TODO|SPEED|MM1TABLE|XXX)\b", README)
