"""Shared fixtures: the shipped model, a copy of its folder to damage, a picture of an unseen scene."""

import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import mlx.core as mx
import pytest
from published_layouts import write_all
from small_models import TINY_FOLDER

import mm1_mlx
from mm1_mlx import tiny

# The same examples on every machine, however slow it is.
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None)
hypothesis.settings.load_profile("seeded")


@pytest.fixture(scope="session")
def mm1_tiny():
    """Load the shipped model and its processor; tests must not change them."""
    return mm1_mlx.load("mm1-tiny")


@pytest.fixture
def make_small(mm1_tiny):
    """Return a function that makes a model of ``small_models``, with random weights, and its processor."""

    def make(config):
        mx.random.seed(0)
        model = mm1_mlx.MM1(config)
        mx.eval(model.parameters())
        return model, mm1_mlx.Processor(mm1_tiny[1].tokenizer, config)

    return make


@pytest.fixture
def run_main(capsys):
    """Return a function that calls a command's ``main`` here; it returns exit code, stdout and stderr."""

    def run_main(main, *argv):
        capsys.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run_main


@pytest.fixture
def small_files():
    """Return a context in which no file may grow beyond so many bytes, as on a full disk."""

    @contextmanager
    def small_files(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

    return small_files


@pytest.fixture
def tiny_folder(tmp_path):
    """Return a copy of the shipped model folder, which tests may damage."""
    return Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """Return a picture file of a scene that training never shows."""
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    tiny.render(tiny.make_scene(tiny.TESTING_SEEDS + 3)).save(path)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a folder with the published data sets, a few rows each; tests must not change it."""
    return write_all(tmp_path_factory.mktemp("data"))
