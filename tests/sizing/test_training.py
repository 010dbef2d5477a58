"""The memory that is foreseen is near what a step takes, and a whole run."""

import gc
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from small_models import SMALL

from mm1_mlx import MM1
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.data.examples import Example
from mm1_mlx.data.packing import join
from mm1_mlx.data.row_forms import Record
from mm1_mlx.sizing.graph import held_bytes, trace
from mm1_mlx.training.checkpointing import checkpoint_layers
from mm1_mlx.training.dry_run import estimate_need
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.training.optimizer import make_optimizer
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.trainer import Trainer
from mm1_mlx.training.tuning_task import TuningTask
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import PartTuning, Tuning
from mm1_mlx.vision.look import run_frozen_parts

FROZEN, LORA, FULL = (PartTuning(how=how) for how in ("frozen", "lora", "full"))
LENGTH, WIDTH, LAYERS = 512, 256, 6
OURS = replace(
    SMALL.text_config,
    num_layers=LAYERS,
    hidden_dims=WIDTH,
    feed_forward_dims=512,
    head_dims=64,
    max_positions=1024,
)
LLAMA = MlxLmDecoderConfig(
    {
        **{
            "model_type": "llama",
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "intermediate_size": 512,
        },
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 768},
    }
)
SPARSE = replace(OURS, num_experts=4, sparse_every=2)
EYES = replace(  # an image encoder whose activations count
    SMALL.vision_config,
    image_size=112,
    patch_size=8,
    hidden_dims=128,
    feed_forward_dims=512,
    num_layers=4,
    num_heads=4,
)
CONNECTOR = replace(
    SMALL.connector_config,
    input_dims=128,
    hidden_dims=128,
    output_dims=WIDTH,
    num_visual_tokens=16,
    position_grid=14,
)


def config_of(decoder):
    image = replace(SMALL.image_config, image_size=112)
    return replace(
        SMALL, text_config=decoder, vision_config=EYES, connector_config=CONNECTOR, image_config=image
    )


def is_near(foreseen, taken):
    """At most 5 % below and 20 % above."""
    assert 0.95 <= foreseen / taken <= 1.2


def prepared(decoder, how):
    mx.random.seed(0)
    model = MM1(config_of(decoder))
    prepare(model, Tuning(FROZEN, FROZEN, PartTuning(how=how)))
    mx.eval(model.parameters())
    ids = np.arange(LENGTH, dtype=np.int32) % 90 + 100
    return model, join([Example("row", ids, np.arange(LENGTH) > 0, ())])


@pytest.mark.parametrize("twice", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("how", ["lora", "dora", "full"])
@pytest.mark.parametrize("decoder", [OURS, SPARSE, LLAMA], ids=["ours", "sparse", "llama"])
def test_a_step_takes_about_what_was_foreseen(decoder, how, twice, request):
    if how == "dora" and decoder is SPARSE:
        pytest.skip("mlx-lm has no DoRA of experts")
    if how == "dora" and twice:
        request.applymarker(pytest.mark.xfail(reason="1.205 times what is taken is foreseen"))
    model, packed = prepared(decoder, how)
    seen = run_frozen_parts(model, packed.pictures, trained=frozenset({"decoder"}))
    gc.collect()  # what an earlier test left, freed meanwhile, would hide what is taken
    need = estimate_need(model, [packed], Recipe())
    model.train()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    with checkpoint_layers(model, on=twice):
        mx.eval(nn.value_and_grad(model, loss_sum)(model, packed, seen))
    taken = mx.get_peak_memory() - before
    step = need.checkpointed if twice else need.activations
    is_near(step + need.gradients, taken)


def rows(count, num_pictures):
    """Documents of ``LENGTH`` tokens and a few less."""
    text = "é" * (
        (LENGTH - 16 * num_pictures) // 2 - 8
    )  # two tokens each, for mm1-tiny's tokenizer knows bytes
    pixels = np.random.default_rng(0).integers(0, 255, (num_pictures, 112, 112, 3), dtype=np.uint8)
    return [
        Record(f"row {number}", (), "<image>" * num_pictures + text, tuple(pixels), "interleaved")
        for number in range(count)
    ]


RUNS = {
    "lora": (OURS, Tuning(FROZEN, FROZEN, LORA), 1, {}),
    "two-sequences": (OURS, Tuning(FROZEN, FROZEN, FULL), 1, {"grad_accumulation_steps": 2}),
    "update-is-largest": (OURS, Tuning(FROZEN, FROZEN, FULL), 0, {"optimizer": "lion", "max_seq_length": 64}),
    "connector": (OURS, Tuning(FROZEN, FULL, FROZEN), 20, {}),
    "all-parts": (OURS, Tuning(FULL, FULL, FULL), 20, {"optimizer": "adafactor"}),
    "all-adapters": (LLAMA, Tuning(LORA, LORA, LORA), 8, {}),
    "sparse": (SPARSE, Tuning(FROZEN, FULL, FULL), 4, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("twice", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_validates_and_saves_takes_about_what_was_foreseen(
    name, twice, make_small, tmp_path, request
):
    if name == "all-adapters" and twice:
        reason = "0.86 times what is taken is foreseen: the next layers of the encoder begin early"
        request.applymarker(pytest.mark.xfail(reason=reason))
    decoder, tuning, num_pictures, options = RUNS[name]
    options = {"batch_size": 1, "max_seq_length": LENGTH, "truncate": True, "pack": False} | options
    recipe = Recipe(iters=3, grad_checkpoint=twice, **options)
    watched = RunOptions(steps_per_eval=1, save_every=1, val_batches=1)
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model, processor = make_small(config_of(decoder))
    splits = {"train": rows(4, num_pictures), "valid": rows(1, num_pictures)}
    task = TuningTask(model, processor, splits, recipe, tuning)
    need = estimate_need(model, task.batches.peek(0), recipe)
    Trainer(task, watched, tmp_path).train()
    taken = mx.get_peak_memory() - before
    is_near(need.total(grad_checkpoint=twice), taken)


def test_what_was_looked_at_is_not_held():
    model, packed = prepared(OURS, "lora")
    gc.collect()
    gc.disable()
    try:
        estimate_need(model, [packed], Recipe())
        before = mx.get_active_memory()
        mx.eval(model.apply(lambda array: array + 1).parameters())
        assert mx.get_active_memory() - before < 1e6
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["adamw", "adam", "adafactor", "lion", "muon", "sgd"])
def test_the_optimizer_takes_what_was_foreseen(name):
    settings = Recipe(optimizer=name)
    model, packed = prepared(OURS, "full")
    optimizer = make_optimizer(settings)
    optimizer.init(model.trainable_parameters())
    taken = sum(value.nbytes for _, value in tree_flatten(optimizer.state))
    assert estimate_need(model, [packed], settings).optimizer == pytest.approx(taken, rel=0.02, abs=100)


def test_rates_of_their_own_for_parts_take_what_one_rate_takes():
    model, packed = prepared(OURS, "full")
    one, own = (
        estimate_need(model, [packed], Recipe(learning_rate_factors=factors))
        for factors in ((1.0, 1.0, 1.0), (0.3, 1.0, 1.0))
    )
    assert own.updating == pytest.approx(one.updating, rel=1e-3)


def test_nothing_is_computed_and_the_weights_stay(monkeypatch):
    model, packed = prepared(OURS, "lora")
    before = dict(tree_flatten(model.parameters()))
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    estimate_need(model, [packed], Recipe())
    assert mx.get_peak_memory() - held < 1e6
    after = dict(tree_flatten(model.parameters()))
    assert before.keys() == after.keys() and all(after[name] is value for name, value in before.items())


def test_the_peak_of_a_chain_is_all_of_it_while_it_is_shorter_than_what_mlx_hands_out_at_once():
    a, b = mx.zeros((64, 256)), mx.zeros((256, 512))
    mx.eval(a, b)
    held = held_bytes(trace(lambda a, b: ((a @ b) @ b.T) @ b, a, b))
    assert max(held) == 4 * 64 * (512 + 256 + 512)
