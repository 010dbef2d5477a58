"""Worked examples and large pictures from the command line."""

import json
from pathlib import Path

import pytest

from mm1_mlx.generate import main

SHOTS = Path(__file__).parents[2] / "examples" / "shots" / "shots.jsonl"


def answer(capsys, *argv):
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *argv):
    assert main([*map(str, argv)]) == 1
    return capsys.readouterr().err.splitlines()[-1].removeprefix("mm1: ")


def test_shots_come_before_the_question(capsys, picture):
    asked = ("--image", picture, "--prompt", "What color is it?", "--max-tokens", 6)
    none = answer(capsys, *asked)
    two = answer(capsys, *asked, "--shots", SHOTS, "--num-shots", 2)
    assert two["visual_tokens"] == 3 * none["visual_tokens"]
    assert "\n" not in two["text"] and "." not in two["text"]


def test_low_resolution_shots_cost_one_view_each(capsys, picture):
    asked = ("--image", picture, "--prompt", "What color is it?", "--max-tokens", 2, "--sub-images", "static")
    shots = ("--shots", SHOTS, "--num-shots", 2)
    assert answer(capsys, *asked, *shots)["visual_tokens"] == 3 * 5 * 16
    assert answer(capsys, *asked, *shots, "--low-resolution-shots")["visual_tokens"] == (2 + 5) * 16


def test_a_large_picture_is_cut_as_asked(capsys, picture):
    asked = ("--image", picture, "--prompt", "What color is it?", "--max-tokens", 2)
    found = answer(capsys, *asked, "--sub-images", "dynamic", "--max-sub-images", 4, "--image-size", 56)
    assert (found["visual_tokens"], found["encoded_views"]) == (5 * 16, 5)


def test_two_pictures_with_shots_are_refused(capsys, picture):
    message = refusal(capsys, "--image", picture, picture, "--prompt", "Which?", "--shots", SHOTS)
    assert message == "2 pictures were given; with --shots the question is about one."


def test_more_shots_than_there_are_are_refused(capsys, picture):
    message = refusal(capsys, "--image", picture, "--prompt", "Which?", "--shots", SHOTS, "--num-shots", 9)
    assert "9" in message and "4" in message


def test_captions_are_asked_for_in_their_own_words(capsys, picture, tmp_path):
    shots = tmp_path / "shots.jsonl"
    shots.write_text(json.dumps({"image": str(picture), "caption": "a red circle"}) + "\n")
    argv = ("--image", picture, "--shots", shots, "--num-shots", 1, "--max-tokens", 3)
    message = refusal(capsys, *argv, "--prompt", "Describe it.")
    assert message == "the shots are captions; ask for one with --prompt 'A photo of'."
    assert answer(capsys, *argv, "--prompt", "A photo of")["text"]


@pytest.mark.parametrize("flag", ["--max-sub-images", "--image-size"])
def test_no_pixels_and_no_crops_are_refused(capsys, picture, flag):
    assert "0" in refusal(capsys, "--image", picture, "--prompt", "Which?", flag, 0)
