"""An evaluation from data on disk to its report."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from published_layouts import NUM_QUERIES, draw, write_rows

from mm1_mlx import EvaluationSettings, evaluate, tiny
from mm1_mlx.errors import DataError, MM1Error
from mm1_mlx.evaluation.journal import PREDICTIONS
from mm1_mlx.evaluation.tasks.table import PUBLISHED, TASKS
from mm1_mlx.files.locking import lock_folder
from mm1_mlx.generation import Request
from mm1_mlx.inputs.few_shot import Shot, few_shot
from mm1_mlx.vision.cache import VisionCache

FILES = ("predictions.jsonl", "results.json", "results.md", "results.png")
COLOR, CAPTION = (tiny.tiny_tasks()[name] for name in ("tiny-color", "tiny-caption"))
FEW = EvaluationSettings(shots=(0, 2), limit=12, batch_size=2)


def lines_of(folder):
    return [json.loads(line) for line in (folder / PREDICTIONS).read_text("utf-8").splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_published_sets_are_measured_in_one_run(mm1_tiny, data, tmp_path):
    settings = EvaluationSettings(shots=(0, 2), shot_seeds=(0, 1))
    report = evaluate(*mm1_tiny, PUBLISHED, settings, data=str(data), output=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    results = {(result["task"], result["shots"]): result for result in report["results"]}
    assert set(results) == {(task.name, shots) for task in PUBLISHED for shots in (0, 2)}
    for (_, shots), result in results.items():
        assert result["num_queries"] == NUM_QUERIES and result["num_failed"] == result["num_missing"] == 0
        assert set(result["scores"]) == ({"0"} if shots == 0 else {"0", "1"})
        assert (result["spread"] is None) == (shots == 0)
        assert (
            result["interval"][0] <= result["score"] + 1e-6
            and result["score"] - 1e-6 <= result["interval"][1]
        )
    assert set(results["nocaps", 0]["groups"]) == {"in-domain", "near-domain", "out-domain"}
    assert sum(group["num_queries"] for group in results["vqav2", 2]["groups"].values()) == NUM_QUERIES
    assert results["vqav2", 2]["metric"] == "vqa" and sum(
        results["vqav2", 2]["shot_answers"].values()
    ) == pytest.approx(1)
    lines = lines_of(tmp_path / "out")
    assert len(lines) == len(PUBLISHED) * NUM_QUERIES * 3
    assert all(len(line["shot_ids"]) == line["shots"] for line in lines)
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8")) == json.loads(
        json.dumps(report)
    )


def test_an_answer_is_what_the_model_gives_to_the_prompt_by_itself(mm1_tiny, data, tmp_path):
    """Prompt, stop and scoring of one task put together by hand."""
    from mm1_mlx import batch_generate

    task = TASKS["vqav2"]
    evaluate(*mm1_tiny, [task], EvaluationSettings(shots=(2,)), data=str(data), output=tmp_path / "out")
    support = {item.id: item for item in task.read(str(data), "support")}
    for line, query in zip(lines_of(tmp_path / "out"), task.read(str(data), "queries"), strict=True):
        shots = [
            Shot(own.image, question=own.question, answer=own.example)
            for own in (support[id] for id in line["shot_ids"])
        ]
        few = few_shot(shots, Shot(query.image, question=query.question))
        request = Request(few.text, few.images, template="plain", stop=("\n", ".", ",", "Question"))
        (answer,) = batch_generate(*mm1_tiny, [request], max_tokens=task.max_tokens)
        assert (line["id"], line["text"], line["answer"]) == (query.id, answer.text, answer.text.strip())
        matches = query.answers.count(line["answer"])
        assert line["score"] == pytest.approx(100 * min(1, matches / 3) if matches != 3 else 90, abs=1e-3)


@pytest.mark.parametrize(
    ("prompts", "select", "task"),
    [("mm1", "fixed", COLOR), ("openflamingo", "random", CAPTION), ("chat", "rices", COLOR)],
)
def test_one_by_one_gives_the_same_files(mm1_tiny, tmp_path, prompts, select, task):
    settings = replace(FEW, select=select, prompts=prompts, rank=True, limit=8, support_limit=12)
    for name, own in (("shared", settings), ("alone", replace(settings, one_by_one=True))):
        evaluate(*mm1_tiny, [task], own, output=tmp_path / name)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_fixed_shots_are_read_and_encoded_once(mm1_tiny, monkeypatch):
    """17 queries behind 8 shots take 25 pictures' encoding, and their own tokens' reading."""
    read, cache = [], VisionCache()
    call = type(mm1_tiny[0].decoder).__call__

    def counted(self, ids, **rest):
        read.append(ids.size)
        return call(self, ids, **rest)

    monkeypatch.setattr(type(mm1_tiny[0].decoder), "__call__", counted)
    evaluate(*mm1_tiny, [COLOR], EvaluationSettings(shots=(8,), limit=17, batch_size=1), vision_cache=cache)
    assert cache.misses == 17 + 8
    assert sum(read) < 17 * 55 + 8 * 35


def test_two_runs_give_the_same_files(mm1_tiny, tmp_path):
    for name in ("one", "two"):
        evaluate(*mm1_tiny, [COLOR], replace(FEW, rank=True, swapped=True, limit=6), output=tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("torn", ["", '{"task": "tiny-col'])
def test_a_run_that_was_stopped_goes_on_to_the_same_files(mm1_tiny, tmp_path, torn):
    settings = replace(FEW, limit=40, support_limit=8)
    evaluate(*mm1_tiny, [COLOR], settings, output=tmp_path / "whole")

    def stop(task, cell, done, number):
        if (cell.shots, done) == (2, 16):
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(*mm1_tiny, [COLOR], settings, output=tmp_path / "out", progress=stop)
    (partial,) = (tmp_path / "out").iterdir()
    assert partial.name == f"{PREDICTIONS}.partial" and len(partial.read_text().splitlines()) == 1 + 40 + 16
    with partial.open("a") as file:
        file.write(torn)
    with pytest.raises(DataError, match="holds an evaluation already; go on with it \\(`resume`\\)"):
        evaluate(*mm1_tiny, [COLOR], settings, output=tmp_path / "out")
    asked = []
    evaluate(
        *mm1_tiny, [COLOR], settings, output=tmp_path / "out", resume=True,
        vision_cache=Watching(asked),
    )  # fmt: skip
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(asked) == 40 - 16 + 2  # pictures of what was not answered, and of the shots


class Watching(VisionCache):
    """Notes what was encoded."""

    def __init__(self, put):
        super().__init__()
        self.noted = put

    def put(self, key, tokens):
        self.noted.append(key)
        super().put(key, tokens)


@pytest.mark.slow
def test_more_shots_and_seeds_can_be_added_to_what_is_done(mm1_tiny, tmp_path):
    few = replace(FEW, limit=4, support_limit=8)
    evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out")
    more = replace(few, shots=(0, 2, 4), shot_seeds=(0, 1), rank=True)
    evaluate(*mm1_tiny, [COLOR, CAPTION], more, output=tmp_path / "out", resume=True)
    evaluate(*mm1_tiny, [COLOR, CAPTION], more, output=tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    fewer = replace(more, shots=(0, 2))
    with pytest.raises(DataError, match=r"tiny-color with `shots` 4, `shot_seeds` 0\. Ask for that too"):
        evaluate(*mm1_tiny, [COLOR, CAPTION], fewer, output=tmp_path / "out", resume=True)


def test_rationales_are_written_before_the_answer_and_nothing_is_ranked_there(mm1_tiny, tmp_path):
    asked = {"question": "What color is it?", "answer": "red", "choices": ["red", "blue"]}
    write_rows(tmp_path / "data", [{"image": 1} | asked, {"image": 2} | asked])
    write_rows(tmp_path / "data", [{"image": 3, "rationale": "It is a red thing."} | asked], split="train")
    settings = EvaluationSettings(shots=(1,), rank=True)
    (result,) = evaluate(*mm1_tiny, ["rows"], settings, data=str(tmp_path / "data"), output=tmp_path / "out")[
        "results"
    ]
    assert "ranked" not in result and "\n" not in lines_of(tmp_path / "out")[0]["text"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": "openflamingo"}, "was made with `prompts` mm1, not openflamingo"),
        ({"limit": 13}, "`limit` 12, not 13"),
        ({"max_tokens": 3}, "`max_tokens` None, not 3"),
    ],
)
def test_a_run_with_other_settings_does_not_go_on(mm1_tiny, tmp_path, change, message):
    evaluate(*mm1_tiny, [COLOR], replace(FEW, shots=(0,)), output=tmp_path / "out")
    with pytest.raises(DataError, match=message):
        evaluate(*mm1_tiny, [COLOR], replace(FEW, **change), output=tmp_path / "out", resume=True)


def test_data_that_changed_do_not_go_on(mm1_tiny, tmp_path):
    row = {"image": 1, "question": "What is it?", "answer": "red"}
    write_rows(tmp_path / "data", [row])
    evaluate(*mm1_tiny, ["rows"], data=str(tmp_path / "data"), output=tmp_path / "out")
    write_rows(tmp_path / "data", [row | {"answer": "blue"}])
    with pytest.raises(DataError, match="the data of rows have changed"):
        evaluate(*mm1_tiny, ["rows"], data=str(tmp_path / "data"), output=tmp_path / "out", resume=True)


def test_what_is_there_and_no_evaluation_is_refused(mm1_tiny, tmp_path):
    line = {"task": "tiny-color", "shots": 0, "seed": 0, "id": "1", "answer": "red"}
    evaluate(*mm1_tiny, [COLOR], replace(FEW, shots=(0,)), output=tmp_path)
    for wrong in ("nothing", "{}", "[1]", *(json.dumps(line | {name: None}) for name in line)):
        (tmp_path / PREDICTIONS).write_text("\n".join([json.dumps(line), wrong, json.dumps(line)]))
        with pytest.raises(DataError, match="line 2 is no prediction"):
            evaluate(*mm1_tiny, [COLOR], FEW, output=tmp_path, resume=True)


@pytest.mark.parametrize("found", ["[]", "{}", '{"settings": 5}', None])
def test_answers_whose_settings_are_not_known_do_not_go_on(mm1_tiny, tmp_path, found):
    (tmp_path / PREDICTIONS).write_text("")
    if found is not None:
        (tmp_path / "results.json").write_text(found)
    with pytest.raises(DataError, match=r"results\.json does not say with which settings"):
        evaluate(*mm1_tiny, [COLOR], FEW, output=tmp_path, resume=True)
    (tmp_path / PREDICTIONS).rename(tmp_path / f"{PREDICTIONS}.partial")
    (tmp_path / f"{PREDICTIONS}.partial").write_text('{"task": "tiny-color"}')
    with pytest.raises(DataError, match=r"partial does not say with which settings"):
        evaluate(*mm1_tiny, [COLOR], FEW, output=tmp_path, resume=True)


def test_settings_that_were_changed_by_hand_are_refused(mm1_tiny, tmp_path, subtests):
    few = replace(FEW, limit=2, shots=(0,))
    evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out")
    path = tmp_path / "out" / "results.json"
    report = json.loads(path.read_text())
    for name, value in (("data", 5), ("image_config", []), ("weights", {}), ("prompts", {"a": 1})):
        with subtests.test(name):
            path.write_text(json.dumps(report | {"settings": report["settings"] | {name: value}}))
            with pytest.raises(
                DataError, match=r"out( was made by another model|: the settings of its answers)"
            ):
                evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out", resume=True)


def test_answers_go_on_only_where_each_setting_of_theirs_is_known(mm1_tiny, tmp_path, subtests):
    few = replace(FEW, limit=2, shots=(0,))
    evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out")
    path = tmp_path / "out" / "results.json"
    report = json.loads(path.read_text())
    size = report["settings"]["image_config"].copy()
    del size["image_size"]
    changes = {"image_config.image_size": {**report["settings"], "image_config": size}}
    changes |= {key: {k: v for k, v in report["settings"].items() if k != key} for key in report["settings"]}
    assert {"weights", "data", "prompts"} < changes.keys()
    changes["data"] = report["settings"] | {"data": {}}
    for name, settings in changes.items():
        with subtests.test(name):
            path.write_text(json.dumps(report | {"settings": settings}))
            unknown = (
                rf"does not say (with which `{name.split('.')[-1]}` its answers were made|on which data)"
            )
            with pytest.raises(DataError, match=unknown):
                evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out", resume=True)


def test_an_answer_with_other_references_is_asked_again(mm1_tiny, tmp_path):
    few = replace(FEW, limit=3, shots=(0,))
    evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out")
    sound = contents(tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    (tmp_path / "out" / PREDICTIONS).write_text(
        "".join(json.dumps(line | {"references": [line["answer"]]}) + "\n" for line in lines)
    )
    evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == sound


def test_files_of_ones_own_are_not_replaced(mm1_tiny, tmp_path):
    (tmp_path / "results.md").write_text("mine")
    for resume in (False, True):
        with pytest.raises(
            DataError, match=r"holds results.md but no predictions.jsonl, so it is no evaluation's"
        ):
            evaluate(*mm1_tiny, [COLOR], FEW, output=tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["results.md"]


def test_a_full_disk_is_told_with_the_file(mm1_tiny, tmp_path, small_files):
    few = replace(FEW, limit=4, shots=(0,))
    with small_files(1500), pytest.raises(DataError, match=r"out.* cannot be written: File too large"):
        evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out")
    evaluate(*mm1_tiny, [COLOR], few, output=tmp_path / "out", resume=True)
    assert len(lines_of(tmp_path / "out")) == 4


def test_two_evaluations_do_not_write_to_one_folder(mm1_tiny, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        lock_folder(tmp_path / "out"),
        pytest.raises(DataError, match=r"another process is writing to .*out; wait"),
    ):
        evaluate(*mm1_tiny, [COLOR], FEW, output=tmp_path / "out", resume=True)
    assert list((tmp_path / "out").iterdir()) == []
    evaluate(*mm1_tiny, [COLOR], replace(FEW, limit=2), output=tmp_path / "out")


def test_openflamingos_no_shots_are_two_in_text(mm1_tiny, tmp_path):
    settings = replace(FEW, prompts="openflamingo", shot_seeds=(0, 1))
    report = evaluate(*mm1_tiny, [COLOR], settings, output=tmp_path / "out")
    lines = [line for line in lines_of(tmp_path / "out") if line["shots"] == 0]
    assert {len(line["shot_ids"]) for line in lines} == {2} and {line["seed"] for line in lines} == {0, 1}
    assert set(report["results"][0]["scores"]) == {"0", "1"}
    assert 'its "0 shots" are 2 examples without pictures' in (tmp_path / "out" / "results.md").read_text()


def test_chat_answers_are_right_and_another_picture_makes_them_wrong(mm1_tiny):
    settings = EvaluationSettings(prompts="chat", limit=32, rank=True, swapped=True)
    (result,) = evaluate(*mm1_tiny, [COLOR], settings)["results"]
    assert result["score"] > 85 and result["ranked"]["score"] > 85 and result["swapped"]["score"] < 30


def test_shots_with_one_view_cost_fewer_tokens(mm1_tiny, tmp_path):
    model, processor = mm1_tiny
    processor = processor.with_image_config(sub_images="static")
    settings = EvaluationSettings(shots=(10,), limit=2)
    with pytest.raises(
        DataError, match=r"tiny-color, query \d+: `shots` 10 do not fit, [89] do: .*context is 1,024"
    ):
        evaluate(model, processor, [COLOR], settings)
    evaluate(model, processor, [COLOR], replace(settings, low_resolution_shots=True), output=tmp_path / "out")
    assert len(lines_of(tmp_path / "out")) == 2


def test_a_prompt_that_never_fits_is_told_as_such(mm1_tiny):
    with pytest.raises(DataError, match=r"tiny-color, query \d+: the prompt is .* context is 1,024"):
        evaluate(*mm1_tiny, [COLOR], EvaluationSettings(max_tokens=1020, limit=2))


def test_more_shots_than_examples_are_refused_before_anything_is_asked(mm1_tiny, data, tmp_path):
    with pytest.raises(DataError, match="coco: `shots` 16 were asked for, but its support set has 6"):
        evaluate(
            *mm1_tiny, ["coco"], EvaluationSettings(shots=(16,)), data=str(data), output=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


SHOWN = {"image": 2, "question": "What?", "answer": "red"}


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([{"image": 2, "caption": "A cat."}], "its queries are questions, but its support set has captions"),
        ([SHOWN, SHOWN | {"rationale": "So."}], "1 of the 2 examples in its support set have a rationale"),
    ],
)
@pytest.mark.parametrize("prompts", ["mm1", "openflamingo", "chat"])
def test_examples_of_another_kind_are_refused(mm1_tiny, tmp_path, prompts, examples, message):
    write_rows(tmp_path, [SHOWN | {"image": 1}])
    write_rows(tmp_path, examples, split="train")
    with pytest.raises(DataError, match=f"rows: {message}"):
        evaluate(*mm1_tiny, ["rows"], EvaluationSettings(shots=(1,), prompts=prompts), data=str(tmp_path))


@pytest.fixture
def broken(tmp_path):
    """Rows of which one has lost its picture, one has a damaged one."""
    asked = {"question": "What color is it?", "answer": "red"}
    write_rows(tmp_path / "data", [{"image": seed} | asked for seed in range(4)])
    (tmp_path / "data" / "2.png").write_bytes((tmp_path / "data" / "2.png").read_bytes()[:80])
    return str(tmp_path / "data")


def test_a_damaged_picture_is_named_or_counted(mm1_tiny, broken, tmp_path):
    with pytest.raises(DataError, match=r"rows, query 3: .*2\.png.*`skip_missing`"):
        evaluate(*mm1_tiny, ["rows"], data=broken, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name, one_by_one in (("some", False), ("alone", True)):
        settings = EvaluationSettings(skip_missing=True, one_by_one=one_by_one)
        (result,) = evaluate(*mm1_tiny, ["rows"], settings, data=broken, output=tmp_path / name)["results"]
        assert (result["num_queries"], result["num_failed"]) == (4, 1)
        assert "2.png" in lines_of(tmp_path / name)[2]["error"]
    assert contents(tmp_path / "some") == contents(tmp_path / "alone")


def test_a_run_that_met_a_damaged_picture_goes_on_without_it_and_with_it_when_it_is_put_right(
    mm1_tiny, broken, tmp_path
):
    once, skipping = (
        EvaluationSettings(one_by_one=True),
        EvaluationSettings(one_by_one=True, skip_missing=True),
    )
    with pytest.raises(DataError, match="rows, query 3"):
        evaluate(*mm1_tiny, ["rows"], once, data=broken, output=tmp_path / "out")
    assert (tmp_path / "out" / f"{PREDICTIONS}.partial").exists()  # two answers
    for settings in (once, skipping):
        with suppress(DataError):
            evaluate(*mm1_tiny, ["rows"], settings, data=broken, output=tmp_path / "out", resume=True)
    assert [line["id"] for line in lines_of(tmp_path / "out") if "error" in line] == ["3"]
    draw(Path(broken) / "2.png", 2)
    evaluate(*mm1_tiny, ["rows"], once, data=broken, output=tmp_path / "out", resume=True)
    evaluate(*mm1_tiny, ["rows"], once, data=broken, output=tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("select", ["fixed", "random", "rices"])
@pytest.mark.parametrize("kept", [80, -200], ids=["header", "behind it"])
def test_a_damaged_example_is_named_or_passed_over(mm1_tiny, tmp_path, select, kept):
    asked = {"question": "What color is it?", "answer": "red"}
    write_rows(tmp_path, [{"image": seed} | asked for seed in range(2)])
    write_rows(tmp_path, [{"image": seed} | asked for seed in range(10, 14)], split="train")
    (tmp_path / "11.png").write_bytes((tmp_path / "11.png").read_bytes()[:kept])
    settings = EvaluationSettings(shots=(3,), select=select)
    with pytest.raises(MM1Error, match=r"11\.png"):
        evaluate(*mm1_tiny, ["rows"], replace(settings, shots=(4,)), data=str(tmp_path))
    (result,) = evaluate(*mm1_tiny, ["rows"], replace(settings, skip_missing=True), data=str(tmp_path))[
        "results"
    ]
    assert (result["num_queries"], result["num_failed"]) == (2, 0)


@pytest.mark.parametrize(("split", "limit"), [("test", "limit"), ("train", "support_limit")])
def test_missing_pictures_are_counted_and_the_first_is_named(mm1_tiny, data, tmp_path, split, limit):
    for path in (data / "coco").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    year = {"test": "val2014", "train": "train2014"}[split]
    kept = {"test": (1002, 1003), "train": (1005, 1006)}[split]
    for seed in (*range(1000, 1005), *range(1008, 1011)):
        if split == "train" or seed in kept:
            draw(tmp_path / "val2014" / f"COCO_val2014_{seed:012}.jpg", seed)
    for seed in range(1005, 1008):
        if split == "test" or seed in kept:
            draw(tmp_path / "train2014" / f"COCO_train2014_{seed:012}.jpg", seed)
    shots = (0,) if split == "test" else (2,)
    number, of, first = {"test": (3, 5, 1000), "train": (1, 6, 1007)}[split]
    with pytest.raises(
        DataError, match=rf"coco: {number} of {of} pictures .*COCO_{year}_{first:012}.jpg.*`{limit}`"
    ):
        evaluate(*mm1_tiny, ["coco"], EvaluationSettings(shots=shots), data=str(tmp_path))
    settings = EvaluationSettings(shots=shots, skip_missing=True)
    (result,) = evaluate(*mm1_tiny, ["coco"], settings, data=str(tmp_path))["results"]
    expected = {"test": (2, 3), "train": (5, 0)}[split]
    assert (result["num_queries"], result["num_missing"]) == expected


def test_missing_pictures_of_own_rows_are_counted_too(mm1_tiny, tmp_path):
    asked = {"question": "What color is it?", "answer": "red"}
    write_rows(tmp_path, [{"image": seed} | asked for seed in range(4)])
    for gone in ("1.png", "3.png"):
        (tmp_path / gone).unlink()
    with pytest.raises(
        DataError, match=r"rows: 2 of 4 pictures of its queries are missing, the first is .*1\.png"
    ):
        evaluate(*mm1_tiny, ["rows"], data=str(tmp_path))
    (result,) = evaluate(*mm1_tiny, ["rows"], EvaluationSettings(skip_missing=True), data=str(tmp_path))[
        "results"
    ]
    assert (result["num_queries"], result["num_missing"]) == (2, 2)


@pytest.mark.parametrize(
    "row", [{"answer": "a\ud800"}, {"question": "a\ud800"}, {"answers": ["\ud800"]}, {"choices": ["\ud800"]}]
)
def test_half_a_character_is_refused_before_anything_is_asked(mm1_tiny, tmp_path, row):
    asked = {"image": 1, "question": "What?", "answer": "red"}
    write_rows(tmp_path / "data", [asked, asked | row])
    with pytest.raises(DataError, match=r"rows: the texts of 2 hold '.ud800', which is no Unicode text"):
        evaluate(*mm1_tiny, ["rows"], data=str(tmp_path / "data"), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_queries_of_one_id_are_refused(mm1_tiny, data, tmp_path):
    values = json.loads((data / "nocaps" / "nocaps_val_4500_captions.json").read_text())
    values["images"] += values["images"][:2]
    (tmp_path / "nocaps_val_4500_captions.json").write_text(json.dumps(values))
    (tmp_path / "val").symlink_to(data / "nocaps" / "val")
    with pytest.raises(
        DataError, match="nocaps: 2 of 5 ids stand twice or more among its queries, the first is 0"
    ):
        evaluate(*mm1_tiny, ["nocaps"], data=str(tmp_path))


def test_a_query_that_is_too_long_is_named(mm1_tiny, tmp_path):
    asked = {"image": 1, "question": "What?", "answer": "red"}
    write_rows(tmp_path, [asked, asked | {"question": "what " * 1500}])
    with pytest.raises(DataError, match=r"rows, query 2: the prompt is .* context is 1,024"):
        evaluate(*mm1_tiny, ["rows"], data=str(tmp_path))


def test_queries_without_references_are_counted_or_refused(mm1_tiny, data, tmp_path):
    for path in (data / "vqav2").rglob("*.json"):
        values = json.loads(path.read_text())
        if "annotations" in values:
            values["annotations"] = values["annotations"][:-2]
        (tmp_path / path.name).write_text(json.dumps(values))
    (tmp_path / "val2014").symlink_to(data / "coco" / "val2014")
    with pytest.raises(
        DataError, match="vqav2: 2 of 5 queries have fewer than 2 reference answers, the first is 4003000"
    ):
        evaluate(*mm1_tiny, ["vqav2"], data=str(tmp_path))
    (result,) = evaluate(*mm1_tiny, ["vqav2"], EvaluationSettings(skip_missing=True), data=str(tmp_path))[
        "results"
    ]
    assert (result["num_queries"], result["num_missing"]) == (3, 2)


def test_nothing_to_ask_is_refused(mm1_tiny, tmp_path):
    (tmp_path / "testdev_balanced_questions.json").write_text("{}")
    with pytest.raises(DataError, match="gqa has no queries"):
        evaluate(*mm1_tiny, ["gqa"], data=str(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shots": ()}, r"`shots` is \[\], expected one or more"),
        ({"shots": (-1,)}, "`shots`"),
        ({"shots": (4, 4)}, "stands twice"),
        ({"shot_seeds": (2**40,)}, "`shot_seeds`"),
        ({"limit": 0}, "`limit` is 0"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(DataError, match=message):
        EvaluationSettings(**values)


def test_words_that_are_no_choice_are_refused():
    """In a process without the tests' type checker, which would be first."""
    for name, expected in (("prompts", "mm1, openflamingo, chat"), ("select", "fixed, random, rices")):
        code = f"from mm1_mlx import EvaluationSettings; EvaluationSettings({name}='mine')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"`{name}` is 'mine', expected one of {expected}." in done.stderr


def test_a_limit_is_the_same_queries_each_time_and_part_of_a_larger_one(mm1_tiny):
    from mm1_mlx.evaluation.exam import open_exam

    ten, twenty = (
        [item.id for item in open_exam(COLOR, None, EvaluationSettings(limit=limit)).queries]
        for limit in (10, 20)
    )
    assert len(ten) == 10 and set(ten) < set(twenty) and ten == sorted(ten, key=int)
