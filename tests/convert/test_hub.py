"""Fetching a checkpoint from the hub and uploading a model folder, against a local stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import READING_TOKEN, TOKEN, Hub, Repo

from convert.hub import find_source
from mm1_mlx.checkpoint.card import CardFacts, model_card
from mm1_mlx.checkpoint.upload import check_repo_id
from mm1_mlx.errors import CheckpointError

ROOT = Path(__file__).parents[2]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode()
COMPANIONS = [
    "LICENSE.txt",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "merges.txt",
    "tokenizer.model",
]
UNWANTED = [
    *("model.onnx", "tf_model.h5", "flax_model.msgpack", "model.gguf", "optimizer.pt", "training_args.bin"),
    *("picture.png", "modeling.py", "onnx/config.json", "original/model.safetensors", ".gitattributes"),
]


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Run a line of ``convert.hub`` as a user's process would: the client reads its settings on import."""

    def run(line, token=None, url=hub.url, before="", **settings):
        code = (
            "import shutil, sys\nfrom pathlib import Path\nfrom mm1_mlx.errors import MM1Error\n"
            f"from convert.hub import find_source\nfrom mm1_mlx.checkpoint.upload import upload\n"
            f"from mm1_mlx.checkpoint.hub import find_folder\n{before}\n"
            f"try: print({line})\nexcept MM1Error as error: sys.exit('mm1: ' + str(error))"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        home = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        here = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"} | ({"HF_TOKEN": token} if token else {})
        return subprocess.run(
            [sys.executable, "-c", code],
            env=kept | home | here | settings,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


def refused(done, *words):
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("mm1: "), done.stderr
    for word in words:
        assert word in last
    return last


def with_files(*names, **contents):
    """A repository of these files, companions and unwanted ones, each with its own name as its bytes."""
    return Repo({name: name.encode() for name in (*names, *COMPANIONS, *UNWANTED)} | contents)


def test_a_folder_or_file_here_is_taken_as_it_is(tmp_path):
    file = tmp_path / "weights.bin"
    file.touch()
    assert find_source(str(tmp_path)) == tmp_path
    assert find_source(str(file)) == file


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"], ["model.safetensors"]),
        (["pytorch_model.bin", "open_clip_pytorch_model.bin", "open_clip_config.json"],
         ["open_clip_config.json", "pytorch_model.bin"]),
        (["open_clip_model.safetensors", "open_clip_config.json", "open_clip_pytorch_model.bin"],
         ["open_clip_config.json", "open_clip_model.safetensors"]),
    ],
)  # fmt: skip
def test_only_the_files_that_a_conversion_needs_are_asked_for(there, fetched, hub, run):
    hub.repos["owner/model"] = with_files(*there)
    done = run("find_source('owner/model')")
    assert hub.list_downloads() == sorted([*COMPANIONS, *fetched]), done.stderr
    folder = Path(done.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == hub.list_downloads()
    assert all(path.read_bytes() == path.name.encode() for path in folder.iterdir())


def test_an_index_says_which_shards_are_asked_for(hub, run):
    hub.repos["owner/model"] = with_files(
        *SHARDS, "model-old.safetensors", **{"model.safetensors.index.json": INDEX}
    )
    run("find_source('owner/model@main')")
    assert hub.list_downloads() == sorted([*COMPANIONS, *SHARDS, "model.safetensors.index.json"])


@pytest.mark.parametrize(("index", "fetched"), [(INDEX, SHARDS), (None, [*SHARDS, "model-old.safetensors"])])
def test_of_a_model_folder_only_the_weights_of_its_index_are_asked_for(index, fetched, hub, run):
    contents = {"config.json": b'{"model_type": "mm1"}'}
    contents |= {"model.safetensors.index.json": index} if index else {}
    hub.repos["owner/model"] = with_files(*SHARDS, "model-old.safetensors", **contents)
    done = run("find_folder('owner/model')")
    assert [name for name in hub.list_downloads() if name.startswith("model-")] == fetched, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"url": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_what_was_fetched_once_needs_no_hub(settings, hub, run):
    hub.repos["owner/model"] = with_files(*SHARDS, **{"model.safetensors.index.json": INDEX})
    first = run("find_source('owner/model')")
    again = run("find_source('owner/model')", **settings)
    assert again.stdout == first.stdout != ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("find_source('no-such-folder')", ["'no-such-folder'", "no folder or file", "owner/name"]),
        ("find_source('owner/nothing')", ["owner/nothing", "no folder here", "`hf auth login`"]),
        ("find_source('owner/secret')", ["owner/secret", "`hf auth login` if it is private"]),
        ("find_source('owner/gated')", ["is gated", "/owner/gated", "`hf auth login`"]),
        ("find_source('owner/model@v9')", ["not this revision"]),
        ("find_source('owner/gguf')", ["no weights", "it holds README.md, model.gguf"]),
        ("find_source('owner/torn')", ["names model-00002-of-00002.safetensors, which the repository lacks"]),
        ("find_source('owner/odd')", ["model.safetensors.index.json does not say which shard"]),
        ("find_source('owner/many')", ["2 files like *.safetensors (a.safetensors, b.safetensors)"]),
    ],
)
def test_what_cannot_be_fetched_is_refused_in_the_users_words(line, words, hub, run):
    index = "model.safetensors.index.json"
    hub.repos |= {
        "owner/secret": Repo({"model.safetensors": b""}, private=True),
        "owner/gated": Repo({"config.json": b"{}", "model.safetensors": b""}, gated=True),
        "owner/model": with_files("model.safetensors"),
        "owner/gguf": Repo({"README.md": b"", "model.gguf": b"", "training_args.bin": b""}),
        "owner/torn": Repo({SHARDS[0]: b"", index: INDEX}),
        "owner/odd": Repo({SHARDS[0]: b"", index: b"[]"}),
        "owner/many": Repo({"a.safetensors": b"", "b.safetensors": b""}),
    }
    refused(run(line), *words)
    assert not [name for name in hub.list_downloads() if not name.endswith(".json")]


def test_a_hub_that_does_not_answer_is_named(run):
    refused(run("find_source('owner/model')", url="http://127.0.0.1:9"), "127.0.0.1:9", "check the network")


def test_a_full_disk_is_found_before_the_download(hub, run):
    hub.repos["owner/model"] = with_files("model.safetensors")
    full = "shutil.disk_usage = lambda path: shutil._ntuple_diskusage(9, 8, 1)"
    refused(run("find_source('owner/model')", before=full), "owner/model takes 0.0 GB", "HF_HOME")
    assert hub.list_downloads() == []


def test_a_disk_that_fills_up_meanwhile_is_named(hub, run):
    hub.repos["owner/model"] = with_files("model.safetensors")
    full = """
from huggingface_hub import file_download
def move(*_): raise OSError(28, 'No space left on device')
file_download._chmod_and_move = move"""
    refused(run("find_source('owner/model')", before=full), "the disk is full", "HF_HOME")


@pytest.fixture
def folder(tmp_path):
    """A model folder with a card and weights of a size that the hub keeps apart."""
    folder = tmp_path / "converted"
    folder.mkdir()
    facts = CardFacts(
        *("owner/model-mlx", "owner/model", "owner/model", ["owner/model"]),
        {"license": "other", "license_name": "seed", "license_link": "LICENSE"},
        {"image encoder": "ViT", "connector": "C-Abstractor", "decoder": "llama"},
        *("bfloat16", None, (), None),
    )
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(100_000))
    return folder


UPLOAD = "upload(Path('converted'), 'owner/model-mlx'{})"


def test_an_uploaded_folder_arrives_byte_for_byte_with_its_card(hub, run, folder):
    done = run(UPLOAD.format(""), token=TOKEN)
    assert done.stdout == f"{hub.url}/owner/model-mlx\n", done.stderr
    repo = hub.repos["owner/model-mlx"]
    assert repo.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not repo.private
    card = repo.files["README.md"].decode()
    for field in ("library_name: mlx", "base_model:\n- owner/model", "license_name: seed", "- multimodal"):
        assert field in card


def test_a_small_folder_arrives_the_way_the_client_uploads_by_default(hub, run, folder):
    hub.inline_bytes = 10**6
    done = run(UPLOAD.format(""), token=TOKEN, HF_HUB_DISABLE_XET="0")
    assert done.returncode == 0, done.stderr
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.repos["owner/model-mlx"].files == files


def test_an_upload_replaces_the_weights_of_the_last_one_and_nothing_else(hub, run, folder):
    hub.repos["owner/model-mlx"] = Repo({SHARDS[0]: b"old", "notes.md": b"mine", "config.json": b"old"})
    assert run(UPLOAD.format(""), token=TOKEN).returncode == 0
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.repos["owner/model-mlx"].files == files | {"notes.md": b"mine"}


def test_a_private_upload_makes_a_private_repository(hub, run, folder):
    assert run(UPLOAD.format(", private=True"), token=TOKEN).returncode == 0
    assert hub.repos["owner/model-mlx"].private


def test_a_private_upload_into_a_public_repository_is_refused(hub, run, folder):
    hub.repos["owner/model-mlx"] = Repo({})
    refused(run(UPLOAD.format(", private=True"), token=TOKEN), "owner/model-mlx exists and is public")
    assert hub.repos["owner/model-mlx"].files == {}


def test_uploading_without_a_token_tells_how_to_log_in(hub, run, folder):
    refused(run(UPLOAD.format("")), "token", "`hf auth login`")
    assert hub.requests == []


def test_a_token_that_may_not_write_is_refused(hub, run, folder):
    refused(
        run(UPLOAD.format(""), token=READING_TOKEN), "does not let you write", "You don't have the rights"
    )


def test_a_card_that_the_hub_does_not_take_is_refused(hub, run, folder):
    (folder / "README.md").write_text("---\n- a\n---\n")
    refused(run(UPLOAD.format(""), token=TOKEN), "owner/model-mlx was not uploaded", "README.md")


@pytest.mark.parametrize(
    "repo_id", ["model", "owner/a/b", "owner/", "owner/a--b", "own er/model", "owner/x.git", ""]
)
def test_a_malformed_repository_id_is_refused(repo_id):
    with pytest.raises(CheckpointError, match="expected owner/name"):
        check_repo_id(repo_id)


def test_a_good_repository_id_is_let_through():
    check_repo_id("owner/Model-1.5_mlx")
