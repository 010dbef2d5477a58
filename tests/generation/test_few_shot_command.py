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


@pytest.fixture
def rationales(tmp_path, picture):
    shots = tmp_path / "rationales.jsonl"
    row = {"question": "What color is it?", "rationale": "It looks red.", "answer": "red"}
    shots.write_text(2 * (json.dumps({"image": str(picture)} | row) + "\n"))
    return shots


def test_a_chain_of_thought_ends_in_an_answer_of_its_own(capsys, picture, rationales):
    asked = ("--image", picture, "--prompt", "What color is it?", "--max-tokens", 40)
    found = answer(capsys, *asked, "--shots", rationales, "--num-shots", 2)
    assert "\n" not in found["text"]
    rationale, _, short = found["text"].partition("Short answer:")
    assert rationale and found["answer"] == short.split(".")[0].split(",")[0].strip()


def test_the_tokens_that_low_resolution_saves_are_told(capsys, picture):
    asked = ("--image", picture, "--prompt", "What color is it?", "--max-tokens", 2, "--sub-images", "static")
    assert main([*map(str, asked), "--shots", str(SHOTS), "--num-shots", "2", "--low-resolution-shots"]) == 0
    told = capsys.readouterr().err
    assert "Low-resolution shots: 32 visual tokens in place of 160, 128 saved" in told


def test_what_a_picture_costs_is_told_before_it_is_encoded(capsys, picture):
    assert main(["--image", str(picture), "--prompt", "What?", "--sub-images", "static", "--verbose"]) == 0
    told = capsys.readouterr().err
    assert "Picture 1: 126 x 126 pixels, 5 views, 80 visual tokens" in told
    assert told.index("Picture 1") < told.index("Prompt:")
