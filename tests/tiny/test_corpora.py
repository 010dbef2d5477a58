"""The corpora of the tiny world: rows that follow from an index and a seed."""

import pytest

from mm1_mlx.data.row_forms import read_row
from mm1_mlx.errors import DataError
from mm1_mlx.tiny import corpora
from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.corpora import BRIDGED_ROWS, CORPORA
from mm1_mlx.tiny.shapes import SHAPES

OWN = [name for name in CORPORA if not name.startswith("all-")]
FORMS = {"captions": "caption", "documents": "interleaved", "bridge": "interleaved", "text": "text"}


def plain(value):
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.tobytes() if hasattr(value, "tobytes") else value


def test_every_row_fits_its_form(subtests):
    for name in OWN:
        with subtests.test(msg=name):
            for index in range(12):
                record = read_row(CORPORA[name](index, 3), name=name, folder=None)
                assert record.form == FORMS.get(name.split("-")[0], "chat")


def test_a_row_follows_from_index_and_seed(subtests):
    for name in OWN:
        with subtests.test(msg=name):
            row = plain(CORPORA[name](5, 1))
            assert row == plain(CORPORA[name](5, 1))
            assert row != plain(CORPORA[name](6, 1))
            assert row != plain(CORPORA[name](5, 2))


def test_documents_have_two_to_sixteen_pictures():
    for index in range(60):
        pictures = [image for image in CORPORA["documents"](index, 0)["images"] if image is not None]
        assert 2 <= len(pictures) <= 16


def test_captions_before_names_become_fewer():
    def share_described(first):
        rows = [CORPORA["bridge"](first + index, 0) for index in range(30)]
        texts = [text for row in rows for text in row["texts"] if text]
        return sum(
            any(word in text for word in (*COLORS, *SHAPES, "letter", "digit")) for text in texts
        ) / len(texts)

    assert share_described(0) > 0.95
    assert 0.3 < share_described(BRIDGED_ROWS // 2) < 0.7
    assert share_described(BRIDGED_ROWS) == 0


def test_corpora_of_everything_ask_for_what_was_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv(corpora.FOLDER_VARIABLE, str(tmp_path))
    corpora.open_full_stock.cache_clear()
    with pytest.raises(DataError, match=r"noto\.zip"):
        CORPORA["all-captions"](0, 0)
