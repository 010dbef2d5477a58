import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.generation.stops import Stops


def shown(pieces, stops):
    stopper, out = Stops(stops), ""
    for number, piece in enumerate(pieces):
        out += stopper.feed(piece, last=number == len(pieces) - 1)
        if stopper.found:
            break
    return out, stopper.found


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["red", ".", " And"], "red"),
        (["red", "\nQuestion"], "red"),
        (["a Que", "stion: b"], "a "),
        (["a Que", "st"], "a Quest"),
        (["red"], "red"),
    ],
)
def test_an_answer_ends_before_the_first_stop(pieces, expected):
    assert shown(pieces, ("\n", ".", "Question"))[0] == expected


def test_without_stops_all_goes_through_at_once():
    assert Stops().feed("a.b\n") == "a.b\n"


@given(
    st.lists(st.text("ab.", max_size=4), min_size=1, max_size=6), st.sampled_from(["ab", "b.", "aab", "."])
)
def test_how_the_text_falls_into_pieces_does_not_matter(pieces, stop):
    text = "".join(pieces)
    assert shown(pieces, [stop]) == (text.split(stop)[0], stop in text)
