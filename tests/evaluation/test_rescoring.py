"""Predictions scored by themselves."""

import json

import pytest

from mm1_mlx import EvaluationSettings, evaluate
from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.rescoring import find_named_tasks, score_file
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


def test_of_several_tasks_the_one_that_is_meant_is_scored(mm1_tiny, data, tmp_path):
    report = evaluate(*mm1_tiny, ["gqa", "coco"], data=str(data), output=tmp_path)
    file = tmp_path / "predictions.jsonl"
    assert find_named_tasks(file) == ["gqa", "coco"]
    for result in report["results"]:
        (again,) = score_file(file, TASKS[result["task"]], data=None, rules="official")
        assert (again["num_queries"], again["score"]) == (5, result["score"])
    with pytest.raises(DataError, match="line 1 does not say of which task it is; give `task`"):
        find_named_tasks(write(tmp_path / "file", [{"id": 1, "answer": "a"}]))


def test_a_list_may_begin_with_blanks_and_what_is_null_counts_for_nothing(tmp_path):
    entry = {"task": None, "id": 1, "answer": "a", "shots": None, "references": ["a"]}
    (tmp_path / "file").write_text("\ufeff\n " + json.dumps([entry]), "utf-8")
    (result,) = score_file(tmp_path / "file", TASKS["gqa"], data=None, rules="official")
    assert (result["shots"], result["score"]) == (None, 100)


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
            "holds predictions of coco, none of vqav2; give `task` coco",
        ),
        (
            [{"id": n, "answer": "a", "references": ["a"]} for n in (1, 2, 3)],
            "3 of 3 predictions have fewer than 2 references, the first is 1",
        ),
        ([{"answer": "a"}], "line 1 has no id"),
        ([{"id": "1", "text": "a"}], "line 1 has no answer"),
        ([{"id": None, "answer": "a"}], "line 1 has no id"),
        ([{"id": "1", "answer": "a"}, {"id": 1, "answer": "b"}], "has two predictions of query 1"),
        ([{"id": "1", "answer": "a", "references": "a"}], "references is 'a', expected a list of texts"),
        (
            [{"id": "1", "answer": "a", "references": ["a", None]}],
            "references is .* expected a list of texts",
        ),
        ([{"id": "1", "answer": "a", "shots": "four"}], "shots is 'four', expected a number"),
        ([{"id": "1", "answer": "a", "seed": [1]}], "seed is .1., expected a number"),
        ([{"id": "1", "answer": "a", "swapped": "yes"}], "swapped is 'yes', expected true or false"),
        ([{"id": "1", "answer": "a", "group": ["a"]}], "group is"),
        ([{"id": "1", "answer": "a", "ranked": 7}], "ranked is 7, expected text"),
        ([{"id": "1", "answer": "a", "task": 7}], "task is 7, expected the name of a task"),
        ([{"id": "1", "answer": "a", "swapped": True, "references": ["a", "b"]}], "another's picture alone"),
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
    ("content", "message"),
    [
        (b"[1, 2]", "entry 1 is no JSON object"),
        (b"[", "file is no JSON in UTF-8"),
        (b"x", "JSON"),
        (b"\xff\xfe", "file is no JSON in UTF-8"),
        (b" []", "file holds no predictions"),
        (b"", "file holds no predictions"),
    ],
)
def test_a_file_that_holds_no_predictions_is_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=message):
        score_file(tmp_path / "file", COCO, data=None, rules="official")
    with pytest.raises(DataError, match="cannot be read"):
        score_file(tmp_path / "none", COCO, data=None, rules="official")
