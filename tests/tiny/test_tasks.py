"""The tiny world as tasks of an evaluation."""

import pytest

from mm1_mlx import tiny
from mm1_mlx.inputs.picture import find_picture
from mm1_mlx.tiny.tasks import CHOICES

TASKS = tiny.tiny_tasks()


@pytest.mark.parametrize("name", TASKS)
def test_items_are_the_same_each_time_and_no_two_alike(name):
    items, again = (TASKS[name].read(None, "queries") for _ in range(2))
    assert len(items) == 1000
    some = [items[index] for index in (0, 1, 500, 999)]
    assert some == [again[index] for index in (0, 1, 500, 999)]
    assert len({item.image for item in some}) == 4
    with pytest.raises(IndexError):
        items[1000]


@pytest.mark.parametrize("name", TASKS)
def test_queries_and_examples_come_from_seeds_of_their_own(name):
    queries, support = (TASKS[name].read(None, split) for split in ("queries", "support"))
    digests = [
        {find_picture(items[index].image).sha256 for index in range(20)} for items in (queries, support)
    ]
    assert not digests[0] & digests[1]


@pytest.mark.parametrize("kind", CHOICES)
def test_the_answer_is_one_of_the_choices(kind):
    for split in ("queries", "support"):
        items = TASKS[f"tiny-{kind}"].read(None, split)
        for index in range(40):
            item = items[index]
            assert item.answers[0] in item.choices and item.question


def test_every_answer_is_asked_for():
    items = TASKS["tiny-existence"].read(None, "queries")
    assert {items[index].answers[0] for index in range(30)} == {"yes", "no"}
