"""Values of a wrong type from Python are told by name, in the words of the parameter."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from mm1_mlx.arguments import require_type
from mm1_mlx.errors import PromptError

CALLS = """
from mm1_mlx import *
model, processor = load("mm1-tiny")

def ask(prompt="What is it?", **settings):
    return lambda: generate(model, processor, prompt, **settings)

CALLS = [
    (ask(system=123), "`system` is 123, expected text or None."),
    (ask(template="x"), "`template` is 'x', expected one of 'chat', 'plain'."),
    (ask(prompt=5), "`prompt` is 5, expected text or a list."),
    (ask(max_tokens="x"), "`max_tokens` is 'x', expected a whole number."),
    (ask(max_tokens=float("nan")), "`max_tokens` is nan, expected a whole number."),
    (ask(max_tokens=True), "`max_tokens` is True, expected a whole number."),
    (ask(prefill_step_size=1.5), "`prefill_step_size` is 1.5, expected a whole number."),
    (ask(max_kv_size=[]), "`max_kv_size` is [], expected a whole number or None."),
    (ask(vision_batch_size="2"), "`vision_batch_size` is '2', expected a whole number or None."),
    (ask(stop="x"), "`stop` is 'x', expected a list, each of it text."),
    (ask(images="a.png"), "`images` is 'a.png', expected a list of pictures, such as [picture]."),
    (ask(images=[5]), "the picture is 5, expected a path"),
    (ask(num_low_resolution=None), "`num_low_resolution` is None, expected a whole number."),
    (ask(vision_cache="x"), "`vision_cache` is 'x', expected a VisionCache or None."),
    (ask(prefix=5), "`prefix` is 5, expected a Prefix or None."),
    (ask(sampling=[]), "`sampling` is [], expected a Sampling."),
    (lambda: Sampling(temp="hot"), "`temp` is 'hot', expected a number."),
    (lambda: Sampling(seed=1.0), "`seed` is 1.0, expected a whole number or None."),
    (lambda: load(5), "`path_or_hub_id` is 5, expected text or a Path."),
    (lambda: load("mm1-tiny", adapter_path=5), "`adapter_path` is 5, expected text or a Path or"),
    (lambda: preset([]), "no preset is named []"),
    (lambda: batch_generate(model, processor, 5), "`requests` is 5, expected a list."),
    (lambda: batch_generate(model, processor, ["x"]), "`requests` is 'x', expected a Request."),
    (lambda: batch_generate(model, processor, [], batch_size="x"), "`batch_size` is 'x', expected a whole"),
    (lambda: Shot(question=5), "`question` is 5, expected text or None."),
    (lambda: processor.few_shot(5, Shot(question="x")), "`shots` is 5, expected a list, each of it a Shot."),
    (lambda: VisionCache(float("nan")), "`max_bytes` is nan, expected 0 or more."),
    (lambda: VisionCache(folder=5), "`folder` is 5, expected text or a Path or None."),
    (lambda: VisionCache(folder="a\\0b"), "`folder` is 'a\\\\x00b', which cannot be made"),
    (lambda: Prefix(model, kv_bits="4"), "`kv_bits` is '4', expected a whole number or None."),
]
for call, told in CALLS:
    try:
        call()
    except MM1Error as error:
        assert str(error).startswith(told), (str(error), told)
    else:
        raise AssertionError(told)
assert batch_generate(model, processor, [Request("Hi", system=5)], max_tokens=1)[0].error.startswith("`system` is 5")
"""


def test_every_wrong_type_is_told():
    """In a process of its own, since here the test's own type checks would come first."""
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (np.int64(3), int),
        (np.float32(0.5), float),
        (1, float),
        ((), Sequence[str]),
        (["a"], Sequence[str | None]),
        ("chat", Literal["chat", "plain"]),
        (None, str | None),
    ],
)
def test_what_fits_is_taken(value, hint):
    require_type("value", value, hint, PromptError)
