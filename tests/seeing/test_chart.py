"""A chart of numbers from 0 up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageColor

from mm1_mlx.seeing.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, ticks
from mm1_mlx.seeing.draw import color_of

RED = "#d62839"


def at(chart, color=(0xD6, 0x28, 0x39)):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((np.asarray(chart.image) == color).all(axis=-1))


@given(st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_within(highest):
    found = ticks(highest)
    assert found[0] == 0 and 2 <= len(found) <= 12 and found[-1] <= highest * (1 + 1e-9)


def test_nothing_has_one_tick():
    assert ticks(0.0) == [0.0]


def test_a_point_stands_where_its_numbers_say():
    chart = Chart("up", "across", last=4.0, highest=10.0)
    chart.point((1, 5), RED)
    rows, columns = at(chart)
    assert abs(columns.mean() - (LEFT + (WIDTH - LEFT - RIGHT) / 4)) < 1
    assert abs(rows.mean() - (TOP + (HEIGHT - TOP - BOTTOM) / 2)) < 1


def test_a_bar_goes_from_its_low_to_its_high_end():
    chart = Chart("up", "across", last=2.0, highest=100.0)
    chart.bar(1.0, 25.0, 75.0, RED)
    rows, _ = at(chart)
    height = HEIGHT - TOP - BOTTOM
    assert abs(rows.min() - (TOP + height / 4)) <= 1 and abs(rows.max() - (TOP + 3 * height / 4)) <= 1


def test_words_of_a_long_key_go_into_further_rows():
    chart = Chart("up", "across", last=1.0, highest=1.0)
    chart.key([(f"a long name {number}", RED) for number in range(8)])
    rows, columns = at(chart)
    assert columns.min() > WIDTH // 2 - 20 and rows.max() > 60


def test_the_key_is_read_in_its_order_and_no_color_stands_for_two_things():
    colors = [color_of(number) for number in range(40)]
    assert len(set(colors)) == 40
    chart = Chart("up", "across", last=1.0, highest=1.0)
    chart.key([(f"a name {number}", color) for number, color in enumerate(colors[:10])])
    (first_rows, first_columns), (second_rows, second_columns), *_, (last_rows, _) = (
        at(chart, ImageColor.getrgb(color)) for color in colors[:10]
    )
    assert first_columns.max() < second_columns.min()
    assert max(first_rows.max(), second_rows.max()) < last_rows.min()
