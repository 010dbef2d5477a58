"""Predictions scored by themselves."""

import json

import pytest

from mm1_mlx import EvaluationSettings, evaluate
from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.rescoring import score_file
from mm1_mlx.evaluation.tasks.table import TASKS

VQAV2, COCO, ROWS = TASKS["vqav2"], TASKS["coco"], TASKS["rows"]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("task", ["coco", "vqav2", "nocaps", "gqa"])
def test_an_evaluations_predictions_give_its_scores_again(mm1_tiny, data, tmp_path, task):
    settings = EvaluationSettings(shots=(0, 2), shot_seeds=(0, 1))
    report = evaluate(*mm1_tiny, [task], settings, data=str(data), output=tmp_path)
    for where in (None, str(data)):
        found = score_file(tmp_path / "predictions.jsonl", TASKS[task], data=where, rules="official")
        for again, first in zip(found, report["results"], strict=True):
            for name in ("score", "scores", "interval", "spread", "groups"):
                assert again.get(name) == first.get(name)


@pytest.mark.parametrize(
    ("task", "entries"),
    [
        (
            "vqav2",
            [{"question_id": 4000000, "answer": "some color"}, {"question_id": 4001000, "answer": "no"}],
        ),
        ("coco", [{"image_id": 1000, "caption": "A cat."}, {"image_id": 1001, "caption": "A dog."}]),
        ("vizwiz", [{"image": "VizWiz_val_00000000.jpg", "answer": "unanswerable"}]),
    ],
)
def test_files_for_evaluation_servers_are_scored_with_the_data(data, tmp_path, task, entries):
    (tmp_path / "file.json").write_text(json.dumps(entries))
    (result,) = score_file(tmp_path / "file.json", TASKS[task], data=str(data), rules="official")
    assert (result["num_queries"], result["num_missing"], result["shots"]) == (
        len(entries),
        5 - len(entries),
        None,
    )
    assert result["score"] == pytest.approx({"vqav2": 15.0, "coco": result["score"], "vizwiz": 100.0}[task])


def test_own_rows_are_exact_matches_or_captions(tmp_path):
    asked = write(
        tmp_path / "a.jsonl", [{"id": 1, "question": "What?", "answer": "A cat.", "references": ["a cat"]}]
    )
    assert score_file(asked, ROWS, data=None, rules="official")[0]["score"] == 100
    told = [
        {"id": n, "answer": text, "references": [text]} for n, text in enumerate(["a red cat", "two dogs"])
    ]
    (result,) = score_file(write(tmp_path / "b.jsonl", told), ROWS, data=None, rules="official")
    assert result["metric"] == "cider"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [{"id": "1", "answer": "a", "task": "coco", "references": ["a"]}],
            "line 1 is a prediction of coco, not vqav2",
        ),
        ([{"id": "1", "answer": "a"}] * 3, "3 of 3 predictions have no references, the first is 1"),
        ([{"answer": "a"}], "line 1 has no id"),
        ([{"id": "1", "text": "a"}], "line 1 has no answer"),
        ([], "holds no predictions"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        score_file(write(tmp_path / "file.jsonl", lines), VQAV2, data=None, rules="official")


def test_predictions_of_other_data_are_refused(data, tmp_path):
    file = write(tmp_path / "file.jsonl", [{"id": "4000000", "answer": "a"}, {"id": "77", "answer": "a"}])
    with pytest.raises(
        DataError, match="1 of 2 predictions are of queries that vqav2 does not have, the first is 77"
    ):
        score_file(file, VQAV2, data=str(data), rules="official")


@pytest.mark.parametrize(
    ("content", "message"), [(b"[1, 2]", "entry 1 is no JSON object"), (b"[", "file"), (b"x", "JSON")]
)
def test_a_file_that_holds_no_predictions_is_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=message):
        score_file(tmp_path / "file", COCO, data=None, rules="official")
    with pytest.raises(DataError, match="cannot be read"):
        score_file(tmp_path / "none", COCO, data=None, rules="official")
