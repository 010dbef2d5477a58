"""From a hub repository to a model folder, from there to an uploaded one, and to an answer of that."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
import yaml
from halves import CLIP, write_decoder
from hub_stand_in import TOKEN, Hub, Repo
from stand_in import NO_UNPAD, QH360VL, load_weights, make_model, make_source, write_tokenizer

import mm1_mlx
from convert.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:.*rope_scaling:FutureWarning")

ROOT = Path(__file__).parents[2]
LICENSE = {"license": "other", "license_name": "seed", "license_link": "LICENSE"}
CARD = f"---\n{yaml.safe_dump(LICENSE)}---\n# Seed\n".encode()
TOWER = "vision_tower/"
TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
UNWANTED = {"modeling.py": b"", "picture.png": b"", "pytorch_model.bin": b"", "original/config.json": b""}


def files_of(folder, *leave):
    """A folder as a repository's files, without those of these names."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and path.name not in leave)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def hub(room):
    """A hub with HyperCLOVAX, 360VL as published and as exported, a tokenizer, and the halves of a new model."""
    whole = files_of(make_source(QH360VL), "pixels.json")
    tower = {path: data for path, data in whole.items() if path.startswith(TOWER)}
    tokenizer = {path: whole[path] for path in TOKENIZER}
    bare = {path: data for path, data in whole.items() if path not in tower | tokenizer}
    elsewhere = whole["config.json"].replace(b'"vision_tower"', b'"openai/clip"')
    llama = files_of(write_decoder(room / "llama", "llama"), *TOKENIZER)
    seed = files_of(make_source(NO_UNPAD), "pixels.json", "config.v0_1_0_layout.json")
    repos = {
        "naver/seed": seed | {"README.md": CARD, "LICENSE": b"terms"} | UNWANTED,
        "qihoo/360vl": bare | {"config.json": elsewhere},
        "meta/llama": tokenizer | {"model.safetensors": b"many bytes"} | UNWANTED,
        "openai/clip": {path.removeprefix(TOWER): data for path, data in tower.items()} | UNWANTED,
        "me/exported": whole | UNWANTED,
        "owner/tokens": files_of(write_tokenizer(room / "tokens")),
        "owner/clip": files_of(CLIP) | {"README.md": CARD},
        "owner/llama": llama | {"README.md": CARD},
    }
    with Hub({name: Repo(files) for name, files in repos.items()}) as hub:
        yield hub


@pytest.fixture(scope="module")
def run(hub, room):
    """Run a command of ours as a user does, who is logged in where ``token`` is given."""

    def run(*argv, token=None):
        hub.requests.clear()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(room / "home"), "HF_HUB_DISABLE_XET": "1"}
        here = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"} | ({"HF_TOKEN": token} if token else {})
        return subprocess.run(
            [sys.executable, "-m", *argv], env=kept | home | here, cwd=room, capture_output=True, text=True
        )

    return run


def metadata(card):
    """A card's front matter."""
    return yaml.safe_load(card.split("---\n")[1])


def fetched(hub):
    """The files that were downloaded, by repository."""
    files = {}
    for method, path in hub.requests:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if match and method == "GET":
            files.setdefault(match[1], []).append(match[2])
    return {repository: sorted(paths) for repository, paths in files.items()}


# A HyperCLOVAX from the hub, converted and uploaded


@pytest.fixture(scope="module")
def converted(run, hub):
    """What the conversion said, and which files it had asked for."""
    done = run("convert", "naver/seed", "--output", "seed", "--upload-repo", "me/out", token=TOKEN)
    assert done.returncode == 0, done.stderr
    return done, fetched(hub)


@pytest.fixture(scope="module")
def uploaded(converted, hub):
    """The files of the uploaded repository."""
    return hub.repos["me/out"].files


def test_only_what_the_conversion_needs_is_asked_for(converted):
    needed = ["LICENSE", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert converted[1] == {"naver/seed": sorted(needed + TOKENIZER)}


def test_a_repository_becomes_the_folder_that_its_files_become(converted, room):
    local = files_of(make_model(NO_UNPAD), "README.md")
    assert files_of(room / "seed", "README.md", "LICENSE") == local


def test_the_folder_is_uploaded_as_it_is(converted, uploaded, room, hub):
    assert uploaded == files_of(room / "seed")
    assert converted[0].stdout.endswith(f"\n{hub.url}/me/out\n")


def test_the_uploaded_card_tells_the_hub_what_it_shows(uploaded):
    assert metadata(uploaded["README.md"].decode()) == LICENSE | {
        "library_name": "mlx",
        "pipeline_tag": "image-text-to-text",
        "base_model": ["naver-hyperclovax/HyperCLOVAX-SEED-Vision-Instruct-3B"],
        "tags": ["mlx", "mm1", "multimodal"],
    }


def test_the_licence_goes_along(uploaded):
    assert uploaded["LICENSE"] == b"terms"
    assert "## Licence\n\nThat of the source: [seed](LICENSE).\n" in uploaded["README.md"].decode()


def test_the_uploaded_cards_command_downloads_the_model_and_answers(uploaded, run, hub, room, picture):
    command = re.search(r"```bash\n(python -m mm1_mlx\.generate .*)\n```", uploaded["README.md"].decode())[1]
    assert "--model me/out --image picture.jpg" in command
    shutil.copyfile(picture, room / "picture.jpg")
    done = run(*shlex.split(command)[2:])
    assert fetched(hub).keys() == {"me/out"}, done.stderr
    model, processor = mm1_mlx.load(room / "seed")
    question = shlex.split(command)[-1]
    assert done.stdout == mm1_mlx.generate(model, processor, question, images=[picture]) + "\n"


# Checkpoints in more than one repository


@pytest.fixture(scope="module")
def vl(run, hub, room):
    """The folder of a 360VL whose encoder and tokenizer stand elsewhere, and what was fetched for it."""
    done = run("convert", "qihoo/360vl", "--output", "vl", "--tokenizer", "meta/llama")
    assert done.returncode == 0, done.stderr
    return room / "vl", fetched(hub)


def test_the_encoder_of_a_360vl_is_fetched_from_its_own_repository(vl):
    folder, files = vl
    assert files["openai/clip"] == ["config.json", "model.safetensors"]
    assert files_of(folder, "README.md") == files_of(make_model(QH360VL), "README.md")


def test_of_the_model_that_gives_its_tokenizer_no_weights_are_fetched(vl):
    assert vl[1]["meta/llama"] == TOKENIZER


def test_the_encoder_of_an_exported_360vl_is_fetched_with_it(run, hub, room):
    done = run("convert", "me/exported", "--output", "exported")
    files = fetched(hub)
    assert files.keys() == {"me/exported"} and "vision_tower/model.safetensors" in files["me/exported"]
    assert not set(UNWANTED) & set(files["me/exported"]), done.stderr
    assert files_of(room / "exported", "README.md") == files_of(make_model(QH360VL), "README.md")


# A new model of two repositories, with a tokenizer from a third


@pytest.fixture(scope="module")
def new(run, hub, room):
    """The folder, and what was fetched for it."""
    halves = ["--encoder", "owner/clip", "--decoder", "owner/llama@main", "--tokenizer", "owner/tokens"]
    done = run("convert", *halves, "--num-visual-tokens", "4", "--output", "new")
    assert done.returncode == 0, done.stderr
    return room / "new", fetched(hub)


def test_both_halves_and_the_tokenizer_are_fetched(new, room):
    assert new[1].keys() == {"owner/clip", "owner/llama", "owner/tokens"}
    ours, decoder = load_weights(new[0]), load_weights(room / "llama")
    assert all(mx.array_equal(ours[f"decoder.{key}"], value) for key, value in decoder.items())


def test_the_card_of_a_new_model_names_both_halves_and_their_licence(new):
    front_matter = metadata((new[0] / "README.md").read_text())
    assert front_matter["base_model"] == ["owner/clip", "owner/llama"]
    assert {key: front_matter[key] for key in LICENSE} == LICENSE


# What is refused before any work


def test_an_upload_to_a_malformed_name_is_refused_before_the_source_is_read(tmp_path, capsys):
    argv = ["no-such-source", "--output", str(tmp_path / "out"), "--upload-repo", "me//out"]
    assert main(argv) == 1
    assert capsys.readouterr().err.startswith("mm1: 'me//out' is no hub id; expected owner/name")


def test_an_upload_without_a_token_is_refused_before_the_source_is_read(run, hub, room):
    done = run("convert", "naver/seed", "--output", "refused", "--upload-repo", "me/out")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mm1: uploading needs a Hugging Face token")
    assert hub.requests == [] and not (room / "refused").exists()
