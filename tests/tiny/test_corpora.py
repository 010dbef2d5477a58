"""The corpora of the tiny world: rows that follow from an index and a seed."""

import pytest

from mm1_mlx.data.row_forms import read_row
from mm1_mlx.tiny.corpora import CORPORA

FORMS = {"captions": "caption", "documents": "interleaved", "text": "text", "conversations": "chat"}


def same(row, other):
    return repr(_plain(row)) == repr(_plain(other))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.tobytes() if hasattr(value, "tobytes") else value


@pytest.mark.parametrize("name", CORPORA)
def test_every_row_fits_its_form(name):
    for index in range(30):
        assert read_row(CORPORA[name](index, 3), name=name, folder=None).form == FORMS[name]


@pytest.mark.parametrize("name", CORPORA)
def test_a_row_follows_from_index_and_seed(name):
    assert same(CORPORA[name](5, 1), CORPORA[name](5, 1))
    assert not same(CORPORA[name](5, 1), CORPORA[name](6, 1))
    assert not same(CORPORA[name](5, 1), CORPORA[name](5, 2))
