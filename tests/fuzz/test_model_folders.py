"""A model folder or adapter folder with a damaged text file loads, or is refused in words."""

import contextlib
import shutil
from random import Random

import pytest
from damaged_json import damage_json
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import examples, mutate
from tuned_models import save_adapter, tuning

import mm1_mlx
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.errors import MM1Error
from mm1_mlx.files.yaml_files import read_mapping
from mm1_mlx.tuning.settings import PartTuning

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors.index.json")  # fmt: skip
SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize("name", [name for name in FILES if (find_folder("mm1-tiny") / name).exists()])
def test_a_damaged_file_of_a_model_folder(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(find_folder("mm1-tiny"), folder)
    whole = (folder / name).read_bytes()

    @settings(max_examples=examples(6))
    @given(seed=SEEDS)
    def load_damaged(seed):
        (folder / name).write_bytes(damage_json(whole, Random(seed)))
        with contextlib.suppress(MM1Error):
            mm1_mlx.load(folder)

    load_damaged()


def test_a_damaged_adapter_configuration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter("mm1-tiny", folder, tuning(decoder=PartTuning("lora", keys=("*.q_proj",))))
    (path,) = folder.glob("*config.json")
    whole = path.read_bytes()
    model, _ = mm1_mlx.load("mm1-tiny")

    @settings(max_examples=examples(15))
    @given(seed=SEEDS)
    def load_damaged(seed):
        path.write_bytes(damage_json(whole, Random(seed)))
        with contextlib.suppress(MM1Error):
            mm1_mlx.load_adapters(model, folder)
        mm1_mlx.remove_adapters(model)

    load_damaged()


YAML = b"""
model: {preset: mm1-tiny, vision_config: {num_layers: 3}}
sources: &all {captions: {generator: "tiny:captions"}, text: {generator: 'tiny:text'}}
stages:
  - {name: one, iters: 1e1, batch_size: 16, sources: *all}
  - name: two # a comment
    <<: {iters: 3}
    train: [connector, decoder]
"""


@settings(max_examples=examples(200))
@given(seed=SEEDS)
def test_a_damaged_yaml_file(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(mutate(YAML, Random(seed)))
    with contextlib.suppress(MM1Error):
        read_mapping(path, "damaged.yaml", "anything")
