"""A configuration is compared with the tensors before a model is built: what is out of proportion takes no time."""

import json
import time

import pytest

from mm1_mlx import load
from mm1_mlx.errors import CheckpointError, ConfigError

LARGE = 2**31 - 1
WRONG = [
    ("connector_config", "hidden_dims", 1, "at least 3"),
    ("connector_config", "hidden_dims", 2, "at least 3"),
    ("connector_config", "num_blocks", LARGE, "num_blocks is 2147483647"),
    ("connector_config", "num_blocks", 9_000, "only 180 tensors"),
    ("connector_config", "position_grid", LARGE, "position_grid is 2147483647"),
    ("connector_config", "num_extra_tokens", LARGE, "num_extra_tokens is 2147483647"),
    ("vision_config", "image_size", LARGE - 1, "image_size / patch_size is 153391689"),
    ("vision_config", "num_layers", 10**6, "num_layers is 1000000"),
    ("vision_config", "num_layers", 9_000, "only 180 tensors"),
    ("vision_config", "feed_forward_dims", LARGE, "feed_forward_dims is 2147483647"),
    ("text_config", "num_layers", 10**6, "num_layers is 1000000"),
    ("text_config", "vocab_size", LARGE, "vocab_size is 2147483647"),
    ("text_config", "head_dims", 2**30, "head_dims is 1073741824"),
    ("text_config", "num_kv_heads", 1, "expected (64, 256)"),
    ("vision_config", "image_size", 140, "expected (100, 128)"),
]


def test_a_size_that_no_tensor_has_is_refused_by_name_and_at_once(tiny_folder, subtests):
    path = tiny_folder / "config.json"
    right = path.read_text()
    for section, key, value, told in WRONG:
        with subtests.test(f"{section} {key} {value}"):
            values = json.loads(right)
            values[section][key] = value
            path.write_text(json.dumps(values))
            start = time.process_time()
            with pytest.raises((ConfigError, CheckpointError)) as caught:
                load(tiny_folder)
            assert told in str(caught.value) and str(tiny_folder) in str(caught.value)
            assert time.process_time() - start < 5
