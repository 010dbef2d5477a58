"""Which examples stand before a query."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx import tiny
from mm1_mlx.errors import DataError, PictureError
from mm1_mlx.evaluation.likeness import Likeness
from mm1_mlx.evaluation.shots import Support, share_out, shuffle
from mm1_mlx.evaluation.tasks.task import Item, find_commonest


def item(seed, **fields):
    scene = tiny.make_scene(seed)
    picture = tiny.render(scene)
    return Item(str(seed), picture, (scene.things[0].color,), **{"question": "What color is it?"} | fields)


@pytest.fixture(scope="module")
def items():
    return [item(seed) for seed in range(12)]


def ids(chosen):
    return [own.id for own in chosen]


@given(number=st.integers(0, 50), seed=st.text(max_size=5))
def test_an_order_has_every_number_once_and_goes_by_its_seed_alone(number, seed):
    order = list(shuffle(number, seed))
    assert sorted(order) == list(range(number))
    assert order == list(shuffle(number, seed))


def test_all_orders_are_equally_likely():
    found = Counter(tuple(shuffle(3, str(seed))) for seed in range(3000))
    assert len(found) == 6 and min(found.values()) > 400


def test_a_few_of_many_are_drawn_without_going_through_all():
    assert len(set(islice(shuffle(10**9, "0"), 16))) == 16


@pytest.mark.parametrize("select", ["fixed", "random"])
def test_the_first_four_of_eight_are_those_that_would_stand_alone(items, select):
    support = Support(items, select)
    for query in (item(100), item(101)):
        assert ids(support.choose(query, 8, 3))[:4] == ids(support.choose(query, 4, 3))


def test_fixed_shots_go_by_the_seed_and_random_ones_by_the_query_too(items):
    queries = [item(100 + n) for n in range(6)]
    fixed, anew = (
        [ids(Support(items, select).choose(query, 4, 0)) for query in queries]
        for select in ("fixed", "random")
    )
    assert len({tuple(chosen) for chosen in fixed}) == 1 and len({tuple(chosen) for chosen in anew}) == 6
    assert ids(Support(items, "fixed").choose(queries[0], 4, 1)) != fixed[0]


@pytest.mark.parametrize("select", ["fixed", "random", "rices"])
def test_the_querys_own_picture_is_never_shown(mm1_tiny, items, select):
    """Not under another name either."""
    alike = Likeness(*mm1_tiny, items) if select == "rices" else None
    support = Support(items, select, alike)
    for own in items:
        query = item(int(own.id), question="Another question?")
        for seed in range(3):
            chosen = ids(support.choose(query, 11, seed))
            assert own.id not in chosen and len(set(chosen)) == 11


def test_what_says_nothing_is_passed_over(items):
    blank = Item("blank", None, ("", " \n"), "What?")
    assert "blank" not in ids(Support([blank, *items], "fixed").choose(item(100), 12, 0))


def test_too_few_examples_are_refused_with_how_many_there_are(items):
    with pytest.raises(DataError, match="`shots` 12 before query 3, but the support set of 12 has only 11"):
        Support(items, "fixed").choose(items[3], 12, 0)


def test_a_damaged_example_is_told_or_passed_over(items, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"none")
    damaged = [Item("bad", bad, ("red",), "What?"), *items]
    with pytest.raises(PictureError, match=r"bad\.png"):
        Support(damaged, "fixed").choose(item(100), 13, 0)
    assert len(Support(damaged, "fixed", skip_damaged=True).choose(item(100), 12, 0)) == 12


def test_rices_puts_the_most_alike_next_to_the_query(mm1_tiny):
    """The same scene in slightly other colours is more alike than any other scene."""
    scenes = [tiny.make_scene(seed) for seed in range(20)]
    items = [Item(str(n), tiny.render(scene), ("x",), "What?") for n, scene in enumerate(scenes)]
    support = Support(items, "rices", Likeness(*mm1_tiny, items, batch_size=3))
    for number in range(6):
        query = Item("q", tiny.render(scenes[number], jitter_seed=5), ("x",), "What?")
        assert support.choose(query, 4, 0)[-1].id == str(number)


def test_likeness_is_the_same_for_any_batch_and_puts_what_has_no_picture_last(mm1_tiny, items):
    mixed = [items[0], Item("none", None, ("x",), "What?"), *items[1:]]
    query = tiny.render(tiny.make_scene(50))
    orders = [list(Likeness(*mm1_tiny, mixed, batch_size=size)(query)) for size in (1, 5)]
    assert orders[0] == orders[1] and sorted(orders[0]) == list(range(13)) and orders[0][-1] == 1


def test_a_balance_lists_the_commonest_answers_first():
    assert share_out(["b", "a", "b", "c"]) == {"b": 0.5, "a": 0.25, "c": 0.25}
    many = share_out([str(n) for n in range(20)])
    assert len(many) == 11 and many["others"] == 0.5
    assert share_out([]) == {}


def test_the_commonest_answer_is_the_first_of_equally_many():
    assert find_commonest(["a", "b ", " b", "a"]) == "a" and find_commonest(["", " "]) == ""
