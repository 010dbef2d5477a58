"""MM1's rule against the values that follow from it, and what counts as a parameter."""

from dataclasses import replace

import pytest
from small_models import SMALL
from tuned_models import LLAMA, SPARSE, make

from mm1_mlx import MM1, preset
from mm1_mlx.model.mm1 import count_parameters
from mm1_mlx.training.pretraining.rule import count_for_rule, peak_rate, warmup_of

FITTED = {
    9e6: 6.75e-4,
    85e6: 2.62e-4,
    302e6: 1.54e-4,
    1.2e9: 8.58e-5,
    2.9e9: 5.92e-5,
    6.4e9: 4.24e-5,
    30e9: 2.21e-5,
}


@pytest.mark.parametrize(("parameters", "rate"), FITTED.items())
def test_the_rates_are_the_papers(parameters, rate):
    assert float(f"{peak_rate(int(parameters)):.2e}") == rate  # to the digits given


@pytest.mark.parametrize(("name", "billions"), [("mm1-3b", 2.9), ("mm1-7b", 6.4), ("mm1-30b", 30)])
def test_parameters_are_counted_as_the_paper_does(name, billions):
    assert count_for_rule(MM1(preset(name))) == pytest.approx(billions * 1e9, rel=0.02)


def test_a_sparse_decoder_counts_as_the_dense_one():
    assert count_for_rule(MM1(preset("mm1-3b-moe"))) == count_for_rule(MM1(preset("mm1-3b")))
    assert count_for_rule(make(SPARSE)) < count_parameters(make(SPARSE).decoder)


@pytest.mark.parametrize("tied", [True, False])
def test_neither_table_nor_head_counts(tied):
    config = replace(SMALL, text_config=replace(SMALL.text_config, tied_head=tied))
    model = make(config)
    assert count_for_rule(model) == count_parameters(model.decoder) - (2 - tied) * 768 * 64


def test_a_decoder_of_mlx_lm_is_counted_too():
    model = make(LLAMA)
    assert count_for_rule(model) == count_parameters(model.decoder) - 2 * 768 * 64


@pytest.mark.parametrize(("iters", "warmup"), [(200_000, 2_000), (1_000, 10), (40, 0)])
def test_the_warm_up_is_a_hundredth(iters, warmup):
    assert warmup_of(iters) == warmup
