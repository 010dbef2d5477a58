"""Which decoders of mlx-lm read pictures: those whose logits are the same for ids and for the rows of their table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx_lm.models
import pytest
from decoder_values import VALUES, VOCABULARY, values_of
from mlx.utils import tree_map

from mm1_mlx.errors import ConfigError
from mm1_mlx.model.given_embeddings import read_embeddings
from mm1_mlx.model.mlx_lm_kinds import KINDS, REASONS
from mm1_mlx.model.mlx_lm_parts import build_decoder, token_embedding

HERE = Path(__file__).parent
IDS = mx.array([[1, 2, 3, 4, 5, 6]])
SOME = mx.array([1, 4])
WELL_KNOWN = (
    "gemma2",
    "gemma3_text",
    "gpt2",
    "granite",
    "llama",
    "ministral3",
    "mixtral",
    "phi3",
    "qwen3",
    "qwen3_moe",
)


def make(kind):
    """Make a tiny decoder with random weights, norms and biases too."""
    mx.random.seed(0)
    decoder = build_decoder(values_of(kind))

    def draw(value):
        return mx.random.normal(value.shape) * 0.2 if mx.issubdtype(value.dtype, mx.floating) else value

    decoder.update(tree_map(draw, decoder.parameters()))
    return decoder


def difference(kind):
    """Return how far the logits of embeddings, of all places and of some, are from those of ids, as a share of the
    largest.
    """
    decoder = make(kind)
    table = token_embedding(decoder, VOCABULARY)
    expected = decoder(IDS)
    found = read_embeddings(decoder, table, table(IDS))
    some = read_embeddings(decoder, table, table(IDS), places=SOME)
    worst = mx.maximum(mx.abs(found - expected).max(), mx.abs(some - expected[:, SOME]).max())
    return (worst / mx.abs(expected).max()).item()


@pytest.mark.parametrize("kind", WELL_KNOWN)
def test_well_known_kinds_read_rows_of_their_table_as_ids(kind):
    assert difference(kind) < 1e-5


@pytest.mark.slow
def test_every_kind_that_is_offered_reads_rows_of_its_table_as_ids(subtests):
    """Each in a process of its own: some, one after another in one process, damage its memory."""
    places = os.pathsep.join((str(HERE), str(HERE.parents[1])))
    run = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": places}
    )
    found = dict(line.split() for line in run.stdout.splitlines())
    for kind in KINDS:
        with subtests.test(kind):
            assert float(found.get(kind, "inf")) < 1e-5, run.stderr


def test_every_kind_of_mlx_lm_is_offered_or_refused_with_a_reason():
    files = Path(mlx_lm.models.__file__).parent.glob("*.py")
    models = {file.stem for file in files if re.search(r"^class Model\(", file.read_text(), re.MULTILINE)}
    assert set(KINDS) | set(REASONS) == models
    assert not set(KINDS) & set(REASONS)


def test_there_are_as_many_kinds_as_the_readme_says():
    readme = (HERE.parents[1] / "README.md").read_text()
    assert f"{len(KINDS)} kinds of mlx-lm" in readme


def test_a_kind_that_is_not_offered_is_refused_with_its_reason_and_those_that_are(subtests):
    for kind in ("gemma3n", "pixtral"):
        with subtests.test(kind), pytest.raises(ConfigError) as refusal:
            build_decoder(VALUES | {"model_type": kind})
        start, end = str(refusal.value).rsplit("; these work: ", 1)
        assert start == f"text_config.model_type {kind!r} {REASONS[kind]}"
        assert end == f"mm1_decoder, {', '.join(KINDS)}."


def test_a_decoder_with_a_second_table_of_its_vocabulary_is_refused():
    values = values_of("gemma4_text") | {"hidden_size_per_layer_input": 8}
    with pytest.raises(ConfigError, match="has 2 embeddings of 96 rows"):
        token_embedding(build_decoder(values), VOCABULARY)


if __name__ == "__main__":  # import once, then begin a process for each kind
    for kind in KINDS:
        if not os.fork():
            print(kind, difference(kind), flush=True)
            os._exit(0)
        os.wait()
