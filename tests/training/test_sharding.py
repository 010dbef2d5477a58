"""Weights spread over processes learn what whole ones do, and leave on disk what whole ones leave."""

import json
import os
import re

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
import sharded_runs
from launching import LAUNCH, launch
from mlx.utils import tree_flatten
from sharded_runs import ALL, CASES
from small_models import SMALL
from tuned_models import SPARSE, compute_logits, make

from mm1_mlx import generate
from mm1_mlx.errors import TrainingError
from mm1_mlx.training.distributed import sharding
from mm1_mlx.training.distributed.adafactor import ShardedAdafactor
from mm1_mlx.training.distributed.processes import Processes, _rows_of_each
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.folder import load_adapters
from mm1_mlx.vision.turns import compute_in_turn

FEW = ("lora", "full", "qlora", "sparse full", "llama lora", "eyes", "checkpointed", "adafactor")
EVEN = tuple(CASES) if os.environ.get("ALL_SHARDED_CASES") else FEW  # all of them take many minutes
UNEVEN = ("full", "adafactor")  # three processes: no width is a multiple
NOISE = "k_proj.bias"  # softmax takes no notice of it: its gradient is what rounding leaves


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """What so many processes did together: folder, and what each of them found."""
    done = {}

    def run(processes):
        if processes not in done:
            folder = tmp_path_factory.mktemp(f"processes-{processes}")
            names = EVEN if processes == 2 else UNEVEN
            done[processes] = folder, launch(sharded_runs.__file__, folder, *names, processes=processes)
        folder, (_, errors) = done[processes]
        files = [folder / f"{rank}.json" for rank in range(processes)]
        assert all(file.exists() for file in files), errors
        return folder, [json.loads(file.read_text()) for file in files]

    return run


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process did: folder, and what it found."""
    done = {}

    def run(name):
        if name not in done:
            folder = tmp_path_factory.mktemp("alone")
            done[name] = folder, sharded_runs.run(CASES[name], folder)
        return done[name]

    return run


together = pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not installed")
every_case = pytest.mark.parametrize(
    ("processes", "name"), [*((2, name) for name in EVEN), *((3, name) for name in UNEVEN)]
)


def values(lines, name):
    return [line[name] for line in lines if name in line]


def same_tensors(found, expected):
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }
    for key, value in found.items():
        if NOISE not in key:
            np.testing.assert_allclose(np.array(value), np.array(expected[key]), atol=1e-5, err_msg=key)


@pytest.mark.slow
@together
@every_case
def test_losses_are_those_of_one_process(many, alone, processes, name):
    _, found = many(processes)
    _, expected = alone(name)
    for kind in ("loss", "val_loss"):
        assert values(found[0][name]["lines"], kind) == pytest.approx(
            values(expected["lines"], kind), rel=1e-5
        )
    assert not any(other[name]["lines"] for other in found[1:])  # the first process alone reports


@pytest.mark.slow
@together
@every_case
def test_files_are_those_of_one_process(many, alone, processes, name):
    folder, _ = many(processes)
    expected, _ = alone(name)
    files = {path.relative_to(expected) for path in expected.rglob("*") if path.is_file()}
    assert files == {path.relative_to(folder / name) for path in (folder / name).rglob("*") if path.is_file()}
    for path in files:
        if path.suffix == ".safetensors":
            same_tensors(mx.load(str(folder / name / path)), mx.load(str(expected / path)))


@pytest.mark.slow
@together
@pytest.mark.parametrize(
    ("processes", "name"),
    [*((2, name) for name in ("lora", "qlora", "full", "sparse full", "adafactor")), (3, "full")],
)
def test_a_process_holds_its_share_of_all_but_frozen_eyes(many, alone, processes, name):
    _, found = many(processes)
    frozen = [part for part in ("image_encoder", "connector") if part not in CASES[name].tuning.parts]
    model = make(CASES[name].config)
    whole = sum(value.nbytes for part in frozen for _, value in tree_flatten(model[part].parameters()))
    share = (alone(name)[1]["held"] - whole) / processes
    for process in found:
        assert process[name]["held"] - whole == pytest.approx(share, rel=0.06)


@pytest.mark.slow
@together
def test_processes_had_unequal_work(many):
    for processes in (2, 3):
        _, found = many(processes)
        assert any(process["idle sequences"] for process in found)


@pytest.mark.slow
@together
@pytest.mark.parametrize("processes", [2, 3])
def test_a_run_that_goes_on_is_the_run_that_never_stopped(many, processes):
    folder, found = many(processes)
    losses = values(found[0]["adafactor"]["lines"], "loss")
    assert values(found[0]["broken off"]["lines"], "loss") == losses[1:]
    for name in ("decoder", "image_encoder", "connector"):
        same_tensors(
            mx.load(str(folder / "broken off" / f"{name}.safetensors")),
            mx.load(str(folder / "adafactor" / f"{name}.safetensors")),
        )


@pytest.mark.slow
@together
@pytest.mark.parametrize("processes", [2, 3])
def test_gradients_are_those_of_one_process(many, processes):
    folder, _ = many(processes)
    model, total = make(SPARSE), {}
    prepare(model, ALL)
    for packed in sharded_runs.make_sequences(processes):
        for key, value in tree_flatten(sharded_runs.compute_gradients(model, packed)):
            total[key] = total.get(key, 0) + np.array(value)
    found = np.load(folder / "gradients.npz")
    assert set(found) == set(total)
    for key, value in total.items():
        scale = max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(found[key] / scale, value / scale, atol=1e-5, err_msg=key)


@pytest.mark.slow
@together
def test_an_adapter_can_be_loaded_where_nothing_is_cut(many, alone):
    folder, _ = many(2)
    expected, _ = alone("lora")
    model, reference, untuned = make(SMALL), make(SMALL), make(SMALL)
    load_adapters(model, folder / "lora")
    load_adapters(reference, expected)
    np.testing.assert_allclose(compute_logits(model), compute_logits(reference), atol=1e-4)
    assert np.abs(compute_logits(model) - compute_logits(untuned)).max() > 1e-2
    answers = [
        generate(tuned, sharded_runs.make_processor(SMALL), "Farbe?", max_tokens=2)
        for tuned in (model, reference)
    ]
    assert answers[0] == answers[1]


@pytest.mark.slow
@together
def test_refusals_are_the_same_in_all_processes(many):
    _, (first, second) = many(2)
    assert first["refusals"]["muon"] == second["refusals"]["muon"]
    assert re.search(r"`optimizer` muon .*with `shard` no process has one", first["refusals"]["muon"])
    assert "`batch_size` is 5, expected a multiple of the 2 processes" in first["refusals"]["batch"]
    for found in (first, second):
        assert re.search(
            r"the mm1_decoder decoder cannot be cut: .*without --shard", found["refusals"]["around"]
        )
        assert re.search(r"from update 0, another from 3; give all machines", found["refusals"]["apart"])


# In one process


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_row_is_with_one_process(size):
    for rows in range(size, 4 * size):
        parts = [np.unique(part) for part in _rows_of_each(rows, size)]
        assert np.concatenate(parts).tolist() == list(range(rows))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_large_matrix_with_fewer_rows_than_processes_is_refused():
    experts = mx.zeros((2, 1000, 1000))
    with pytest.raises(
        TrainingError, match=r"cannot cut mlp.experts: it has 2 rows, and there are 3 processes"
    ):
        sharding._is_cut("mlp.experts", experts, 3)
    assert sharding._is_cut("mlp.experts", experts, 2)
    assert not sharding._is_cut("mlp.router", experts[:, :4, 0], 3)
    assert not sharding._is_cut("norm", mx.zeros(8), 2)


def test_adafactor_of_one_process_is_that_of_mlx():
    parameters = {
        "a": mx.random.normal((6, 4)),
        "b": mx.random.normal((3, 4, 5)),
        "c": mx.random.normal((7,)),
    }
    options = {"relative_step": False, "scale_parameter": False}
    plain = optim.Adafactor(1e-2, **options)
    sharded = ShardedAdafactor(1e-2, processes=Processes(), **options)
    mine = theirs = parameters
    for step in range(3):
        gradients = {k: mx.random.normal(v.shape, key=mx.random.key(step)) for k, v in parameters.items()}
        theirs, mine = plain.apply_gradients(gradients, theirs), sharded.apply_gradients(gradients, mine)
    for key, value in theirs.items():
        np.testing.assert_allclose(mine[key], value, rtol=1e-5)
    for (name, value), (_, expected) in zip(*map(tree_flatten, (sharded.state, plain.state)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)


def test_turns_change_neither_values_nor_gradients():
    def loss(x, y):
        x, y = compute_in_turn(x, y)
        return mx.sum(x * x) + mx.sum(3 * y)

    value, (of_x, of_y) = mx.value_and_grad(loss, argnums=(0, 1))(mx.array([2.0]), mx.array([1.0]))
    assert (value.item(), of_x.item(), of_y.item()) == (7.0, 4.0, 3.0)


def test_shard_with_one_process_changes_nothing(tmp_path):
    made, _ = sharded_runs.make_trainer(CASES["lora"], tmp_path)
    layer = type(made.model.layers[0])
    made.train()
    assert type(made.model.layers[0]) is layer and not made._shards.rows
