"""Pictures and captions side by side."""

import pytest

from mm1_mlx import tiny
from mm1_mlx.data.pairs import PairBatches, chunks, make_pair
from mm1_mlx.data.row_forms import read_row
from mm1_mlx.data.settings import DataSettings
from mm1_mlx.errors import DataError
from mm1_mlx.inputs.picture import Picture


def row(values, name="row 1"):
    return read_row(values, name=name, folder=None)


@pytest.fixture(scope="module")
def processor(mm1_tiny):
    return mm1_tiny[1]


@pytest.fixture(scope="module")
def scene():
    return tiny.render(tiny.make_scene(tiny.TRAINING_SEEDS + 8_700_000))


def captioned(scene, caption="a red circle"):
    return row({"image": scene, "caption": caption})


def test_a_caption_is_read_without_its_picture(processor, scene):
    pair = make_pair(captioned(scene), processor, max_length=77)
    tokenizer = processor.tokenizer
    assert processor.config.image_token_id not in pair.ids
    assert pair.ids[-1] == tokenizer.eos_token_id and pair.ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(pair.ids[1:-1]) == "a red circle"
    assert isinstance(pair.picture.picture, Picture) and pair.picture.made_views is None


def test_a_long_caption_is_cut_and_still_ends(processor, scene):
    whole = make_pair(captioned(scene), processor, max_length=77)
    pair = make_pair(captioned(scene), processor, max_length=3)
    assert pair.ids == (*whole.ids[:2], processor.tokenizer.eos_token_id)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ({"text": "red"}, "text"),
        ({"image": None, "question": "Which?", "answer": "red"}, "question"),
        ({"images": [None], "texts": ["red"]}, "interleaved"),
    ],
)
def test_a_row_of_another_form_is_refused(processor, values, form):
    with pytest.raises(
        DataError, match=rf"row 1: it is a row of the form {form}, but a contrastive stage takes"
    ):
        make_pair(row(values), processor, max_length=77)


def test_chunks_hold_every_pair_once_padded_to_few_shapes(processor, scene):
    pairs = [make_pair(captioned(scene, "red " * n), processor, max_length=77) for n in range(1, 8)]
    found = list(chunks(pairs, 3))
    assert [made.num_learned for made in found] == [3, 3, 1]
    for made in found:
        assert made.ids.shape[1] % 16 == 0 and made.num_pictures == made.num_learned
        assert made.num_tokens == sum(made.lengths.tolist()) <= made.num_places
    read = [
        tuple(ids[:n])
        for made in found
        for ids, n in zip(made.ids.tolist(), made.lengths.tolist(), strict=True)
    ]
    assert read == [pair.ids for pair in pairs]


def test_batches_open_their_pictures(processor, scene):
    rows = [captioned(scene)] * 5
    batches = PairBatches(rows, processor, DataSettings(batch_size=5), max_length=20, chunk_size=2)
    (update,) = batches.updates(0, 1)
    assert [made.num_learned for made in update] == [2, 2, 1]
    assert all(picture.made_views is not None for made in update for picture in made.pictures)
    assert all(picture.made_views is None for made in batches.peek(0) for picture in made.pictures)
