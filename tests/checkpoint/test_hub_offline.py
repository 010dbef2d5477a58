"""Without a connection, a model that is not here is told at once, and one that was downloaded is used."""

import json
import os
import subprocess
import sys
import time

import pytest

OFFLINE = """
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.errors import MM1Error
import sys
try:
    print(find_folder(sys.argv[1]))
except MM1Error as error:
    print(error)
"""


ROWS = OFFLINE.replace("checkpoint.hub import find_folder", "data.records import open_data as find_folder")
LOGIN = OFFLINE.replace("hub import find_folder", "upload import check_can_upload").replace(
    "find_folder(sys.argv[1])", "check_can_upload()"
)


def find_offline(name, home, code=OFFLINE):
    nowhere = {
        "HF_ENDPOINT": "https://hub.invalid",
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_none",
    }  # .invalid is never a name
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", code, name], env=kept | nowhere, capture_output=True, text=True, check=True
    )
    assert "Retry" not in done.stderr
    return done.stdout.strip()


def test_a_misspelt_id_is_told_at_once(tmp_path):
    start = time.monotonic()
    assert find_offline("nobody/nothing", tmp_path) == (
        "nobody/nothing is no folder here and was not downloaded before, and the hub cannot be reached; "
        "check the name, and the connection."
    )
    assert time.monotonic() - start < 30  # the hub's client alone waits for 23 s between its tries


def test_a_misspelt_data_set_is_told_at_once(tmp_path):
    pytest.importorskip("datasets")
    start = time.monotonic()
    assert find_offline("nobody/rows", tmp_path, ROWS) == (
        "nobody/rows is no folder here and was not downloaded before, and the hub cannot be reached; "
        "check the name, and the connection."
    )
    assert time.monotonic() - start < 30


def test_an_upload_that_nothing_could_reach_is_refused_before_the_work(tmp_path):
    told = find_offline("nobody/nothing", tmp_path, LOGIN)
    assert told == "uploading needs the hub, which cannot be reached; check the connection."


def test_a_model_in_the_cache_is_found(tmp_path):
    cache = tmp_path / "hub" / "models--me--model"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "mm1"}))
    assert find_offline("me/model", tmp_path) == str(snapshot)
