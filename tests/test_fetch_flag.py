"""``--allow-fetch``: without it nothing is downloaded, with it a picture from a real server is answered about."""

import importlib
import io
import json
import sys
from functools import partial

import pytest
from test_fetching import here, response, serve

from mm1_mlx.inputs import fetching

chat, generate = (importlib.import_module(f"mm1_mlx.{name}") for name in ("chat", "generate"))
ASK = ("--prompt", "What color is it?", "--max-tokens", "4")


@pytest.fixture
def server(monkeypatch, picture):
    """Yield the address of a picture on this machine, which the commands may ask."""
    monkeypatch.setattr(fetching, "Fetcher", partial(fetching.Fetcher, is_allowed=here))
    with serve({"/cat.png": response(picture.read_bytes())}) as (url, asked):
        yield f"{url}/cat.png", asked


def test_nothing_is_downloaded_without_the_flag(run_main, server):
    url, asked = server
    code, out, err = run_main(generate.main, "--image", url, *ASK)
    assert (code, out) == (1, "") and not asked
    assert (
        err == f"mm1: {url} is a web address; add --allow-fetch, or download the picture and give its path.\n"
    )


def test_a_downloaded_picture_has_the_answer_of_its_file(run_main, server, picture):
    url, asked = server
    code, out, _ = run_main(generate.main, "--image", url, "--allow-fetch", *ASK)
    assert code == 0 and out == run_main(generate.main, "--image", picture, *ASK)[1]
    assert len(asked) == 1


def test_rows_of_a_batch_may_be_web_addresses(run_main, server, picture, tmp_path):
    url, _ = server
    rows, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    rows.write_text(f'{{"image": "{url}"}}\n{{"image": "{picture}"}}\n{{"image": "http://10.0.0.1/a.png"}}\n')
    argv = ("--batch", rows, "--output", output, *ASK)
    assert run_main(generate.main, *argv)[0] == 1
    refused = [json.loads(line) for line in output.read_text().splitlines()]
    assert "is a web address; add --allow-fetch" in refused[0]["error"]
    assert run_main(generate.main, *argv, "--resume", "--allow-fetch")[0] == 1
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert answers[0]["text"] == answers[1]["text"]
    assert "which is not an address of the public internet" in answers[2]["error"]


def test_a_chat_downloads_with_the_flag_alone(run_main, server, monkeypatch):
    url, _ = server
    for flags, said in (((), "add --allow-fetch"), (("--allow-fetch",), "1 picture view encoded")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"/image {url}\nWhat color is it?\n"))
        assert said in run_main(chat.main, *flags)[2]
