"""Decoders as transformers writes them today compute, in mlx-lm, what they compute there, or are refused by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import needs_torch
from transformers_decoders import AGREE, CLOSE, REFUSED

from convert.decoder_settings import complete_settings
from mm1_mlx.errors import ConfigError
from mm1_mlx.model.mlx_lm_parts import build_decoder, check_settings

HERE = Path(__file__).parent
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 700,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
}
SLIDING, FULL = "sliding_attention", "full_attention"


@needs_torch
@pytest.mark.slow
def test_every_kind_gives_transformers_logits_or_is_refused(subtests):
    """In a process of their own; ``pytest -s`` shows the differences."""
    places = os.pathsep.join((str(HERE), str(HERE.parents[1])))
    run = subprocess.run(
        [sys.executable, HERE / "transformers_decoders.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": places},
    )
    print(run.stdout)
    found = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    for kinds, most in ((AGREE, 1e-4), (CLOSE, 5e-4)):
        for kind in kinds:
            with subtests.test(kind):
                assert float(found[kind]) < most, run.stderr
    for kind, reason in REFUSED.items():
        with subtests.test(kind):
            assert reason in found[kind]


def test_what_transformers_5_renamed_and_moved_is_read():
    values = {"model_type": "qwen3_moe", "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    found = complete_settings(SIZES | values | {"moe_intermediate_size": 32, "norm_topk_prob": False})
    assert (found["num_experts"], found["rope_theta"], found["head_dim"]) == (4, 5e5, 16)
    build_decoder(found | {"tie_word_embeddings": False})


def test_values_of_transformers_4_stay_as_they_are():
    values = {"model_type": "qwen3", "rope_theta": 1e6, "rope_scaling": None, "head_dim": 32}
    values = {**SIZES, **values, "tie_word_embeddings": True}
    del values["rope_parameters"]
    assert values.items() <= complete_settings(values).items()


def test_a_width_of_heads_that_a_file_leaves_out_is_that_of_the_published_class():
    assert complete_settings(SIZES | {"model_type": "gemma3_text"})["head_dim"] == 256
    assert complete_settings(SIZES | {"model_type": "exaone4"})["head_dim"] == 16


def test_layers_without_a_window_are_counted_from_their_names():
    layers = [SLIDING, SLIDING, FULL, SLIDING]
    assert (
        complete_settings(SIZES | {"model_type": "cohere2", "layer_types": layers})["sliding_window_pattern"]
        == 3
    )
    found = complete_settings(SIZES | {"model_type": "exaone4", "layer_types": layers, "sliding_window": 8})
    assert found["sliding_window_pattern"] == "LLGL"
    build_decoder(found | {"tie_word_embeddings": True})


def test_a_pattern_of_letters_that_its_layers_contradict_is_refused():
    values = {"model_type": "exaone4", "layer_types": [FULL] * 4, "sliding_window_pattern": "LLLG"}
    with pytest.raises(ConfigError, match="in other layers than sliding_window_pattern"):
        check_settings(SIZES | values, "config.json")


def test_infinite_numbers_are_read_as_the_largest():
    values = {"model_type": "nemotron_h", "time_step_limit": [0.0, {"__float__": "Infinity"}]}
    limit = complete_settings(SIZES | values)["time_step_limit"]
    assert json.loads(json.dumps(limit)) == [0.0, 3e38]


@pytest.mark.parametrize("kind", ["gemma2", "ministral3", "mixtral", "phi3", "starcoder2"])
def test_a_window_that_a_kind_always_has_is_refused(kind):
    with pytest.raises(ConfigError, match=f"mlx-lm's {kind} attends to all tokens before"):
        check_settings(SIZES | {"model_type": kind, "sliding_window": 16}, "config.json")


def test_a_share_of_turned_dimensions_that_mlx_lm_lacks_is_refused():
    rope = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
    values = complete_settings(SIZES | {"model_type": "glm", "rope_parameters": rope})
    with pytest.raises(ConfigError, match=r"partial_rotary_factor is 0\.5, which mlx-lm's glm"):
        check_settings(values, "config.json")
