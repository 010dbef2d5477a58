"""A room imports only rooms above it, nothing imports a command, torch stays in ``convert``."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import mm1_mlx
from mm1_mlx import __main__ as mm1_mlx_main

PACKAGE = Path(mm1_mlx.__file__).parent
ROOMS = [
    *("files", "model", "inputs", "tuning", "checkpoint", "vision", "data", "generation", "sizing", "seeing"),
    *("training", "evaluation", "serving", "tiny"),
]
SHARED = {"arrays", "errors", "strict", "config", "image_config", "presets", "settings", "machine"}
SHARED |= {"arguments", "other_names", "terminal"}
HELPERS = {"flags", "training_flags", "flag_files"}
COMMANDS = {p.stem for p in PACKAGE.glob("*.py")} - SHARED - HELPERS - {"__init__", "command"}
FACES = COMMANDS | HELPERS | {"__init__"}  # no others beside the rooms import one
FILES = sorted(PACKAGE.rglob("*.py"))
CONVERT = PACKAGE.parent / "convert"


def imported(path):
    """Dotted names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            yield from (f"{home}.{alias.name}" for alias in node.names)


def test_a_room_imports_only_rooms_above_it(subtests):
    for path in FILES:
        with subtests.test(msg=str(path.relative_to(PACKAGE))):
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            for name in imported(path):
                top, *rest = name.split(".")
                assert top, f"imports {name}, relative"
                assert top not in ("torch", "convert"), f"imports {name}"
                assert rest[:1] != ["convert"], f"imports {name}"
                if top != "mm1_mlx":
                    continue
                target = rest[0]
                assert target not in COMMANDS, f"imports the command {target}"
                if len(parts) == 1:
                    assert target in SHARED or parts[0] in FACES, f"imports {name}"
                elif target in ROOMS:
                    assert ROOMS.index(target) <= ROOMS.index(parts[0]), f"imports {name}"
                else:
                    assert target in SHARED, f"imports {name}"


def test_convert_imports_no_command_and_torch_in_functions_alone(subtests):
    paths = sorted(CONVERT.rglob("*.py"))
    assert paths
    for path in paths:
        with subtests.test(msg=str(path.relative_to(CONVERT))):
            for name in imported(path):
                top, *rest = name.split(".")
                assert top != "mm1_mlx" or rest[0] == "command" or rest[0] not in COMMANDS, f"imports {name}"
                assert top != "convert", f"imports {name}, which an installed wheel lacks"
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    assert "torch" not in ast.unparse(node).replace("torch_reference", ""), (
                        "imports torch when loaded"
                    )


EXAMPLES = sorted((PACKAGE.parent / "examples").rglob("*.py"))
INSIDE = {"against_mlx_lm.py", "sharded_sources.py"}  # measures a part that has no public name


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.name not in INSIDE], ids=lambda p: p.name)
def test_examples_import_the_public_face_alone(path):
    names = [name for name in imported(path) if name.startswith("mm1_mlx")]
    assert all(name.count(".") == 1 and name.split(".")[1] in mm1_mlx.__all__ for name in names)


def test_the_public_names_exist():
    for name in mm1_mlx.__all__:
        assert getattr(mm1_mlx, name).__name__.rpartition(".")[2] == name


def test_importing_a_command_does_not_hide_the_function_of_its_name():
    code = "import importlib; importlib.import_module('mm1_mlx.generate'); from mm1_mlx import generate; generate.__call__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_public_names_are_listed_and_what_type_checkers_see():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == mm1_mlx._HOMES
    assert set(mm1_mlx.__all__) <= set(dir(mm1_mlx))
    found = {}
    exec("from mm1_mlx import *", found)
    assert set(mm1_mlx.__all__) <= set(found)


def test_a_public_function_is_pickled_by_its_home():
    assert pickle.loads(pickle.dumps(mm1_mlx.generate)) is mm1_mlx.generate


def test_help_and_usage_errors_load_neither_mlx_nor_transformers():
    """Importing those takes seconds; of all commands one process is enough."""
    names = ["mm1_mlx.__main__", "convert.__main__", *(f"mm1_mlx.{name}" for name in mm1_mlx_main.COMMANDS)]
    code = (
        "import sys; from importlib import import_module\n"
        f"for name in {names}:\n"
        "    for argv, code in ((['--help'], 0), (['--no-such-flag'], 2)):\n"
        "        try: import_module(name).main(argv)\n"
        "        except SystemExit as stop: assert stop.code == code, name\n"
        "        else: raise AssertionError(name)\n"
        "        loaded = {'mlx.core', 'mlx_lm', 'transformers', 'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
        "        assert not loaded, (name, loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr[-500:]


def test_running_needs_no_torch(picture):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mm1_mlx import generate, load\n"
        f"generate(*load('mm1-tiny'), 'What is it?', images=[{str(picture)!r}], max_tokens=2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
