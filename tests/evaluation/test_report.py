"""What is written of an evaluation."""

import json

import numpy as np
import pytest
from PIL import Image

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.published import read_published
from mm1_mlx.evaluation.report import write_report, write_tables
from mm1_mlx.evaluation.tasks.table import PUBLISHED

SETTINGS = {"prompts": "mm1", "select": "fixed", "low_resolution_shots": False, "limit": None}


def result(task, shots, score, metric="vqa", **more):
    return {
        **{
            "task": task,
            "metric": metric,
            "shots": shots,
            "score": score,
            "interval": [score - 1, score + 1],
        },
        **{"spread": None, "scores": {"0": score}, "num_queries": 1000, "num_failed": 1, "num_missing": 2},
    } | more


def report(*results, **settings):
    return {
        "model": "mine",
        "settings": SETTINGS | settings,
        "vqa_rules": "official",
        "results": list(results),
    }


def rows(text, first):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith(f"| {first}")
    ]


def test_published_rows_have_their_marks_and_a_meaning_for_each():
    found = read_published()
    assert {row.model for row in found.rows} == {
        *("Flamingo-3B", "Flamingo-9B", "Flamingo-80B", "IDEFICS-9B", "IDEFICS-80B"),
        *("Emu2-14B", "Emu2-37B", "MM1-3B", "MM1-7B", "MM1-30B"),
    }
    assert all(row.mark.split()[0] in found.marks for row in found.rows)
    assert all(set(row.scores) <= {task.name for task in PUBLISHED} for row in found.rows)
    (mm1,) = [row for row in found.rows if (row.model, row.shots) == ("MM1-3B", 8)]
    assert list(mm1.scores.values()) == [114.6, 104.7, 88.8, 63.6, 44.6, 46.4, 48.4] and mm1.mark == "X"
    assert {row.mark for row in found.rows if (row.model, row.shots) in (("MM1-7B", 0), ("MM1-30B", 0))} == {
        "MEMORY"
    }


def test_the_papers_table_has_a_column_for_each_task_that_was_measured():
    text = write_tables(
        report(result("vqav2", 0, 40.0), result("vqav2", 8, 51.25), result("coco", 8, 90.0, "cider"))
    )
    assert rows(text, "model") == [["model", "shots", "COCO", "VQAv2", "mark"]]
    assert ["MM1-3B", "8", "114.6", "63.6", "X"] in rows(text, "MM1-3B")
    assert ["Emu2-14B", "8", "-", "59.0", "N"] in rows(text, "Emu2")
    assert rows(text, "**mine") == [
        ["**mine**", "0", "-", "**40.0**", "measured"],
        ["**mine**", "8", "**90.0**", "**51.2**", "measured"],
    ]
    assert "MEMORY: remembered, no source: not to be quoted as the paper's" in text


def test_without_a_published_task_there_is_no_such_table():
    assert "Beside published models" not in write_tables(report(result("tiny-color", 0, 97.0, "exact")))


def test_the_table_of_all_has_intervals_spread_groups_and_controls():
    own = result("vqav2", 4, 50.0, spread=1.26, scores={"0": 49.0, "1": 51.0}, ranked={"score": 60.0})
    own |= {"groups": {"yes/no": {"score": 70.0, "num_queries": 400}}}
    text = write_tables(report(own, result("okvqa", 4, 30.0, swapped={"score": 3.0})))
    assert rows(text, "vqav2 ") == [
        ["vqav2", "VQA accuracy", "4", "50.0", "49.0 to 51.0", "1.3 (2)", "1,000", "3", "60.0", "-"]
    ]
    assert rows(text, "vqav2: yes/no")[0][:7] == ["vqav2: yes/no", "VQA accuracy", "4", "70.0", "", "", "400"]
    assert rows(text, "okvqa")[0][-2:] == ["-", "3.0"]


def test_several_tasks_have_a_mean_for_each_number_of_shots():
    results = [
        result("vqav2", 0, 40.0),
        result("coco", 0, 60.0),
        result("vqav2", 8, 50.0),
        result("coco", 8, 100.0),
    ]
    assert "Mean of the 2 tasks: 0 shots 50.0, 8 shots 75.0." in write_tables(report(*results))
    assert "Mean of" not in write_tables(report(results[0]))


def test_the_answers_of_queries_and_shots_stand_side_by_side():
    own = result(
        "vqav2", 4, 50.0, query_answers={"yes": 0.5, "no": 0.4, "others": 0.1}, shot_answers={"no": 1.0}
    )
    text = write_tables(report(own, result("okvqa", 0, 1.0, query_answers={"a": 1.0}, shot_answers={})))
    assert ["vqav2", "4", "yes 50 %, no 40 %", "no 100 %"] in rows(text, "vqav2")
    assert ["okvqa", "0", "a 100 %", "-"] in rows(text, "okvqa")


def test_settings_are_told_where_they_matter():
    text = write_tables(
        report(result("vqav2", 0, 1.0), prompts="openflamingo", limit=5000, low_resolution_shots=True)
    )
    for told in (
        "0 (2 in text)",
        "official rules",
        "5,000 queries",
        "one view",
        "2 examples without pictures",
        "no beams",
    ):
        assert told in text


def test_scores_are_drawn_where_they_are(tmp_path):
    results = [result("vqav2", shots, score) for shots, score in ((0, 20.0), (8, 80.0))]
    write_report(tmp_path, report(*results), [{"id": "1"}])
    image = np.asarray(Image.open(tmp_path / "results.png"))
    rows, columns = np.nonzero((image == (0xD6, 0x28, 0x39)).all(axis=-1)[50:])
    assert rows[columns.argmin()] - rows[columns.argmax()] > 200  # the line rises
    assert json.loads((tmp_path / "results.json").read_text())["results"] == results
    assert (tmp_path / "predictions.jsonl").read_text() == '{"id": "1"}\n'


def test_scores_of_nothing_right_are_drawn(tmp_path):
    write_report(tmp_path, report(result("vqav2", 0, 0.0, interval=[0.0, 0.0])), [])
    assert (tmp_path / "results.png").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"`output` .*file cannot be written"):
        write_report(tmp_path / "file", report(result("vqav2", 0, 1.0)), [])
