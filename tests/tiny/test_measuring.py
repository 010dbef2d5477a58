"""The measuring of mm1-tiny: which rows can be made, how items are put to a model, and how answers are scored."""

import json
import os
import re
from dataclasses import replace

import pytest

from mm1_mlx.errors import DataError
from mm1_mlx.evaluate import main
from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.measuring import find_rows, find_ways, measure, score, write_request
from mm1_mlx.tiny.rows import ROWS, make_trial
from mm1_mlx.tiny.stock import SHIPPED


def test_rows_without_pictures_at_hand_are_left_out_and_refused_by_name():
    found = find_rows([], SHIPPED)
    assert set(ROWS) - set(found) == {"pictogram", "third-style"}
    assert find_rows(["color", "count"], SHIPPED) == ["color", "count"]
    with pytest.raises(DataError, match="row pictogram needs pictograms"):
        find_rows(["pictogram"], SHIPPED)
    with pytest.raises(DataError, match="no row is named 'colour'; there are color"):
        find_rows(["colour"], SHIPPED)


def test_right_answers_score_one_and_wrong_ones_nothing():
    trials = [make_trial("color", number) for number in range(2)]
    answers = [trial.question.answer for trial in trials]
    assert score(trials, answers).mean == 1
    assert score(trials, [*answers[:1], "nonsense"]).mean == 0.5


def test_captions_in_a_style_score_cider():
    trials = [make_trial("style-0-shots", number) for number in range(2)]
    assert score(trials, [trial.question.answer for trial in trials]).mean == pytest.approx(10)
    assert score(trials, [""] * 2).mean == 0


def test_shots_are_turns_or_stand_in_one_prompt_or_in_a_document(mm1_tiny):
    trial = make_trial("names-2-way-2-shots", 0)
    assert find_ways(mm1_tiny[1], trial) == ("chat", "prompt")
    chat = write_request(trial, "chat").prompt
    assert [message["role"] for message in chat] == ["user", "assistant"] * 2 + ["user"]
    assert {message["content"] for message in chat[1::2]} == set(trial.choices)
    for way in ("prompt", "document"):
        request = write_request(trial, way)
        assert request.prompt.count(IMAGE) == len(request.images) == 3
    assert write_request(trial, "document").template == "plain"


def test_a_model_is_asked_ranked_and_shown_sub_images(mm1_tiny):
    kept = []
    rows = ("names-2-way-2-shots", "small-print")
    model, processor = mm1_tiny
    scores = list(measure(model, processor, rows, num=2, keep=lambda *line: kept.append(line)))
    assert [each.how for each in scores] == [
        *("chat", "chat, ranked", "one prompt", "one prompt, ranked"),
        *("chat, one view", "chat, sub-images"),
    ]
    assert len(kept) == 12
    assert all(answer in trial.choices for trial, how, answer in kept if how.endswith("ranked"))
    assert all(0 <= each.interval.low <= each.interval.mean <= each.interval.high <= 1 for each in scores)


def test_the_command_prints_a_line_for_each_score_and_writes_them(tmp_path, capsys):
    output = tmp_path / "scores.json"
    words = ["tiny", "--rows", "color", "count", "--items", "2", "--output", str(output)]
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["color", "count"]
    assert re.search(r"chat +\d+\.\d \(\d+\.\d to \d+\.\d\), at least 97 asked for$", printed[0])
    written = json.loads(output.read_text())
    assert [(line["row"], line["items"], line["bound"]) for line in written] == [
        ("color", 2, 0.97),
        ("count", 2, 0.93),
    ]


def measure_two_colors(run_main, output, **changes):
    flags = {"items": 2, "batch-size": 8} | changes
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    return run_main(main, "tiny", "--rows", "color", *words, "--output", output)


def test_scores_replace_scores_and_nothing_else(run_main, tmp_path):
    scores, other = tmp_path / "scores.json", tmp_path / "other"
    assert measure_two_colors(run_main, scores)[0] == measure_two_colors(run_main, scores)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]
    for content in (b"\x89PNG", b'{"row": 1}', b'["mine"]', b"[1, 2]", b"color 97"):
        other.write_bytes(content)
        code, out, err = measure_two_colors(run_main, other)
        assert (code, out) == (1, "") and f"{other} is there already and is no file of scores" in err
        assert other.read_bytes() == content


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder; give the name of a file"),
        (os.mkfifo, "is no regular file; give the name of one"),
        (lambda path: None, "there is no folder"),
    ],
)
def test_a_place_where_no_scores_can_be_is_refused_before_anything_is_asked(
    run_main, tmp_path, make, message
):
    make(tmp_path / "there")
    name = "absent/scores.json" if "no folder" in message else "there"
    code, out, err = measure_two_colors(run_main, tmp_path / name)
    assert (code, out) == (1, "") and message in err


def test_a_full_disk_leaves_the_scores_that_were_there(run_main, tmp_path, small_files):
    scores = tmp_path / "scores.json"
    measure_two_colors(run_main, scores)
    before = scores.read_bytes()
    with small_files(20):
        code, _, err = measure_two_colors(run_main, scores)
    assert code == 1 and f"{scores}: File too large" in err
    assert scores.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [0, -1, 10**9])
def test_no_items_and_more_than_can_be_drawn_are_refused(run_main, tmp_path, number):
    code, _, err = measure_two_colors(run_main, tmp_path / "scores.json", items=number)
    assert code == 1 and f"--items is {number}, expected 1 to 100,000." in err


def test_a_model_without_a_chat_template_continues_documents(mm1_tiny):
    class Plain:
        chat_template = None

    processor = replace_tokenizer(mm1_tiny[1], Plain())
    assert find_ways(processor, make_trial("color", 0)) == ("document",)
    assert find_ways(processor, replace(make_trial("color", 0), document="")) == ()


def replace_tokenizer(processor, tokenizer):
    made = processor.with_image_config()
    made.tokenizer = tokenizer
    return made
