"""Learning rates by update."""

import math

import mlx.core as mx
import pytest

from mm1_mlx.errors import ConfigError
from mm1_mlx.training.optimizer import learning_rate
from mm1_mlx.training.recipe import OPTIMIZERS, SCHEDULES, Recipe, tuning_rate


def rates(**settings):
    recipe = Recipe(iters=100, learning_rate=1.0, warmup=10, **settings)
    rate = learning_rate(recipe)
    return [rate(mx.array(step)).item() for step in (0, 5, 10, 55, 100)]


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_cosine_ends_at_a_share_of_the_highest_rate(share):
    middle = share + (1 - share) * (1 + math.cos(math.pi / 2)) / 2
    assert rates(schedule="cosine_decay", final_rate=share) == pytest.approx(
        [0, 0.5, 1, middle, share], abs=0.02
    )
    assert rates(schedule="cosine_decay", final_rate=share)[-1] == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_line_ends_at_a_share_of_the_highest_rate(share):
    assert rates(schedule="linear_decay", final_rate=share) == pytest.approx(
        [0, 0.5, 1, (1 + share) / 2, share], abs=0.02
    )


def test_a_constant_rate_ends_where_it_is():
    assert rates(schedule="constant", final_rate=0.1)[2:] == [1, 1, 1]


def test_wider_decoders_are_tuned_more_slowly():
    assert (tuning_rate(256), tuning_rate(4096)) == (4.7e-4, 2.9e-5)


def test_choices_are_told_once():
    assert "adafactor" in OPTIMIZERS and "cosine_decay" in SCHEDULES


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"final_rate": 1.5}, "final_rate is 1.5, expected at most 1"),
        ({"final_rate": -0.5}, "final_rate is -0.5, expected 0 or more"),
        ({"learning_rate": 11.0}, "learning_rate is 11.0, expected at most 10"),
        ({"betas": (0.9, 1.0)}, "betas are (0.9, 1.0), expected less than 1 each"),
        ({"learning_rate_factors": (1.0, -1.0, 1.0)}, "expected 0 or more each"),
        ({"batch_size": 0}, "batch_size is 0, expected more than 0"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        Recipe(**settings)
    assert words in str(error.value)
