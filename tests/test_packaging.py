"""What an installed wheel holds, and by what names its commands are called."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import convert.__main__
import mm1_mlx
from mm1_mlx.__main__ import COMMANDS, CONVERT, main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def packages(top, name):
    return {
        ".".join((name, *path.parent.relative_to(ROOT / top).parts))
        for path in (ROOT / top).rglob("__init__.py")
    }


def test_a_wheel_holds_every_package_and_convert_as_one_of_them():
    assert SETUPTOOLS["package-dir"] == {"mm1_mlx.convert": "convert"}
    assert set(SETUPTOOLS["packages"]) == packages("mm1_mlx", "mm1_mlx") | packages(
        "convert", "mm1_mlx.convert"
    )
    assert SETUPTOOLS["packages"] == sorted(SETUPTOOLS["packages"])


def test_every_command_has_its_script():
    scripts = PROJECT["project"]["scripts"]
    assert {f"mm1_mlx.{name}": f"mm1_mlx.{name}:script" for name in COMMANDS}.items() <= scripts.items()
    assert scripts["mm1_mlx.convert"] == scripts["mm1-convert"] == "mm1_mlx.convert.__main__:script"
    assert {
        path.stem for path in (ROOT / "mm1_mlx").glob("*.py") if "main, script =" in path.read_text()
    } == {
        *COMMANDS,
        "__main__",
    }


def test_the_version_stands_once():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mm1_mlx.__version__"}
    assert f"## [{mm1_mlx.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"mm1_mlx {mm1_mlx.__version__}\n"


def test_the_commands_are_listed_a_line_each(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[2] for line in lines[:-1]] == [f"mm1_mlx.{name}" for name in COMMANDS]
    assert all(len(line.split()) > 5 for line in lines)
    assert lines[-1].endswith(CONVERT) and convert.__main__.__doc__.startswith(CONVERT)


@pytest.mark.parametrize("module", ["mm1_mlx", *(f"mm1_mlx.{name}" for name in COMMANDS), "convert"])
def test_the_usage_line_shows_the_name_that_was_called(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: python -m {module} [-h]")


def test_the_usage_line_of_a_script_shows_the_script(tmp_path):
    script = tmp_path / "mm1_mlx.generate"
    script.write_text("from mm1_mlx.generate import script\nscript()\n")
    done = subprocess.run(
        [sys.executable, str(script), "--help"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.startswith("usage: mm1_mlx.generate [-h]")


def test_convert_runs_under_either_name(tmp_path):
    (tmp_path / "convert.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "mm1_mlx").mkdir()
    for path in (ROOT / "mm1_mlx").iterdir():
        (tmp_path / "mm1_mlx" / path.name).symlink_to(path)
    (tmp_path / "mm1_mlx" / "convert").symlink_to(ROOT / "convert")  # as a wheel has it
    argv = [sys.executable, "-m", "mm1_mlx.convert", "mm1-tiny", "--output", "out"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("out: 0.009 GB")
