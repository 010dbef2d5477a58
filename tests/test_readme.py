"""The README's words, run as they stand."""

import re
import shlex
import subprocess
import sys
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


def test_the_python_example_runs():
    subprocess.run([sys.executable, "-c", blocks("python")[0]], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:|#)([^)]+)\)", README))
def test_linked_files_exist(path):
    assert (ROOT / path).exists()


def test_the_continuous_integration_runs_the_readmes_question():
    script = (ROOT / ".ci" / "run").read_text()
    assert '--prompt "What color is the circle?"' in script
    assert f'"{blocks("text")[0].strip()}"' in script


def test_no_placeholder_is_left():
    assert not re.findall(r"\b(TODO|SPEED|MM1TABLE|XXX)\b", README)
