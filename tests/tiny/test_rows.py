"""The table that mm1-tiny has to fill: items that follow from row and number, and judges that hold."""

from collections import Counter

import pytest

from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.inventing import is_name_held_out
from mm1_mlx.tiny.rows import ROWS, make_trial

OWN = [name for name, row in ROWS.items() if not row.needs]
NAMED = [name for name in ROWS if name.startswith("names-")]


def test_an_item_follows_from_row_and_number_and_is_judged(subtests):
    for row in OWN:
        with subtests.test(msg=row):
            items = [make_trial(row, number) for number in range(4)]
            again = make_trial(row, 2)
            assert [p.tobytes() for p in again.pictures] == [p.tobytes() for p in items[2].pictures]
            assert (again.text, again.document, again.question) == (
                items[2].text,
                items[2].document,
                items[2].question,
            )
            assert len({p.tobytes() for item in items for p in item.pictures}) > 3
            for item in items:
                assert item.document.count(IMAGE) == len(item.pictures)
                assert item.is_right(item.question.answer) and not item.is_right("")


def test_counts_from_none_to_eight_are_alike_frequent():
    counts = Counter(make_trial("count", number).question.answer for number in range(36))
    assert counts == dict.fromkeys(map(str, range(9)), 4)


@pytest.mark.parametrize("row", NAMED)
def test_names_and_their_places_are_new(row):
    asked = [make_trial(row, number) for number in range(12)]
    for item in asked:
        assert item.question.answer in item.choices and all(map(is_name_held_out, item.choices))
        assert len(item.turns) + 1 == len(item.pictures)
        if "no-shots" not in row:
            assert {answer for _, answer in item.turns} == set(item.choices)
    places = Counter(item.choices.index(item.question.answer) for item in asked)
    assert len(places) > 1


@pytest.mark.parametrize("row", ["names-2-way-2-shots", "names-4-way-8-shots"])
def test_controls_ask_the_same_and_show_other_pictures(row):
    for number in range(4):
        item, bare, shuffled = (
            make_trial(f"{row}{control}", number) for control in ("", "-no-shots", "-shuffled")
        )
        assert item.question == bare.question == shuffled.question and item.choices == shuffled.choices
        assert item.pictures[-1].tobytes() == bare.pictures[-1].tobytes() == shuffled.pictures[-1].tobytes()
        assert len(bare.pictures) == 1 and bare.document == IMAGE
        assert shuffled.document == item.document
        shown = {picture.tobytes() for picture in item.pictures[:-1]}
        assert shown.isdisjoint(picture.tobytes() for picture in shuffled.pictures[:-1])


def test_shots_show_a_style_to_the_same_query():
    for number in range(4):
        none, four, eight = (make_trial(f"style-{shots}-shots", number) for shots in (0, 4, 8))
        assert none.question == four.question == eight.question
        assert [len(item.pictures) for item in (none, four, eight)] == [1, 5, 9]
        assert eight.document.startswith(four.document.rpartition(IMAGE)[0])


def test_counting_aloud_and_not_shows_the_same_pictures():
    aloud, silent = make_trial("aloud", 3), make_trial("not-aloud", 3)
    assert [p.tobytes() for p in aloud.pictures] == [p.tobytes() for p in silent.pictures]
    assert aloud.question.answer == silent.question.answer in ("5", "6", "7", "8")
    assert aloud.is_right(f"1 red circle, 2 blue star. Short answer: {aloud.question.answer}")


def test_small_print_is_small_in_one_view():
    from mm1_mlx.tiny.conversing import SMALL_PRINT
    from mm1_mlx.tiny.making import make_scene

    sizes = [126 * t.size for seed in range(30) for t in make_scene(seed, SMALL_PRINT).things if t.text]
    assert sizes and min(sizes) >= 5.5 and max(sizes) <= 9.5
