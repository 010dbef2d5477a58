"""Shared fixtures: the shipped model, a copy of its folder to damage, a picture of an unseen scene."""

import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from published_layouts import write_all

import mm1_mlx
from mm1_mlx import tiny

TINY_FOLDER = Path(mm1_mlx.__file__).parent / "tiny" / "mm1-tiny"


@pytest.fixture(scope="session")
def mm1_tiny():
    """The shipped model and its processor; tests leave both as they are."""
    return mm1_mlx.load("mm1-tiny")


@pytest.fixture
def make_small(mm1_tiny):
    """Makes a model of a configuration of ``small_models``, with random weights, and its processor."""

    def make(config):
        mx.random.seed(0)
        model = mm1_mlx.MM1(config)
        mx.eval(model.parameters())
        return model, mm1_mlx.Processor(mm1_tiny[1].tokenizer, config)

    return make


@pytest.fixture
def run_main(capsys):
    """Calls a command's ``main`` in this process: exit code, stdout, stderr."""

    def run_main(main, *argv):
        capsys.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run_main


@pytest.fixture
def tiny_folder(tmp_path):
    """A copy of the shipped model folder, to be damaged."""
    return Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """A picture file of an unseen scene."""
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    tiny.render(tiny.make_scene(tiny.TESTING_SEEDS + 3)).save(path)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with the published data sets of an evaluation, a few rows each; tests leave it as it is."""
    return write_all(tmp_path_factory.mktemp("data"))
