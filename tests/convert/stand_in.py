"""What the golden checkpoints leave out: a tokenizer, and the pixels of their reference runs.

Folders that tests only read are made once and shared; a test that changes one takes a copy.
"""

import atexit
import functools
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import GOLDEN, load_arrays

from convert.conversion import convert, read_source
from convert.recipe import Options
from convert.sources.qh360vl import IMAGE_TOKEN
from mm1_mlx.inputs.picture import open_picture
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.sub_images import views

HONEYBEE_BIN, HONEYBEE = "honeybee/legacy_fp32_bin", "honeybee/refactor_fp32_safetensors"
ANYRES, NO_UNPAD = "hyperclovax_vision/tiny_siglip_anyres", "hyperclovax_vision/tiny_siglip_no_unpad"
QH360VL, KANANA = "qh360vl/tiny_two_projectors", "kanana"
KINDS = {
    HONEYBEE_BIN: "honeybee",
    HONEYBEE: "honeybee",
    ANYRES: "hyperclovax",
    NO_UNPAD: "hyperclovax",
    QH360VL: "qh360vl",
    KANANA: "kanana",
}
VOCABULARY = 80  # the smallest of the models'
TOKENS = {  # of pictures and of new lines; Honeybee's and Kanana's pictures take <unk>
    QH360VL: {"extra": (IMAGE_TOKEN,)},
    ANYRES: {"at": {70: "<|dummy3|>"}},
    NO_UNPAD: {"at": {70: "<|dummy3|>"}},
    KANANA: {"at": {5: "\n"}},
}

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
EVERY = [HONEYBEE, ANYRES, NO_UNPAD, QH360VL, KANANA, pytest.param(HONEYBEE_BIN, marks=needs_torch)]

_ROOM = tempfile.TemporaryDirectory(prefix="mm1-golden-")
atexit.register(_ROOM.cleanup)


def write_tokenizer(folder, vocab_size=VOCABULARY, extra=(), at=None):
    """Write a word-level tokenizer: <unk>, <s>, </s>, the extra special tokens, then words w3, w4, …

    ``at`` has more special tokens by their id. A word that it does not know becomes its last, never <unk>.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<unk>", "<s>", "</s>", *extra]
    words = special + [f"w{number}" for number in range(len(special), vocab_size)]
    for number, token in (at or {}).items():
        words[number] = token
        special.append(token)
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    return folder


def copy_folder(folder, path):
    return Path(shutil.copytree(folder, path))


@functools.cache
def make_source(name):
    """Make a golden checkpoint with a tokenizer and a whole reference run, once; tests must not change it."""
    folder = copy_folder(GOLDEN / name, Path(_ROOM.name) / name)
    write_tokenizer(folder, **TOKENS.get(name, {}))
    path = folder / "io.safetensors"
    run = load_arrays(path)
    mx.eval(run)
    mx.save_safetensors(str(path), run | _make_pixels(name, folder))
    return folder


@functools.cache
def make_model(name):
    """Convert ``make_source(name)`` into a model folder, once; tests must not change it."""
    output = Path(_ROOM.name) / "converted" / name
    convert(str(make_source(name)), output)
    return output


def yield_golden_views(folder):
    """Yield the uint8 views of each picture beside a checkpoint, as its image settings make them."""
    config = read_source(folder, None, Options()).config.image_config
    for path in sorted(folder.glob("image_*.png")):
        yield views(open_picture(path, alpha=config.alpha), config), config


def load_weights(folder):
    """Return all tensors of a folder's safetensors files."""
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_arrays(path).items()}


def _make_pixels(name, folder):
    """Make the pixels of a reference run, under its own names, which are not stored."""
    if KINDS[name] == "honeybee":
        return {
            "pixel_values": mx.array(make_torch_noise(**json.loads((folder / "pixels.json").read_text())))
        }
    arrays = [
        mx.array(normalize(cut, config).transpose(0, 3, 1, 2).copy())
        for cut, config in yield_golden_views(folder)
    ]
    if name == QH360VL:
        return {"windows_pixel_values": arrays[0]}
    return {f"pixel_values_{number}": array for number, array in enumerate(arrays)}


def make_torch_noise(seed, skip, shape):
    """Return what torch.randn gives on a CPU for ``seed`` after ``skip`` numbers, to 2e-6."""
    count = skip + int(np.prod(shape))
    words = np.frombuffer(np.random.RandomState(seed).bytes(4 * count), "<u4").reshape(-1, 2, 8)
    first, second = np.moveaxis((words & 0xFFFFFF) / 2**24, 1, 0)
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
    return normal[skip:].reshape(shape).astype(np.float32)
