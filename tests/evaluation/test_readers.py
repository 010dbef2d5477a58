"""Every reader reads its data set as it was published."""

import json

import pytest
from published_layouts import NUM_QUERIES, NUM_SUPPORT, caption, color_of, write_rows

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.tasks.table import PUBLISHED, TASKS, find_tasks

VQA = ("vqav2", "okvqa", "textvqa", "vizwiz")


def read(data, name, split="queries"):
    return TASKS[name].read(str(data), split)


@pytest.mark.parametrize("task", PUBLISHED, ids=lambda task: task.name)
@pytest.mark.parametrize(("split", "number"), [("queries", NUM_QUERIES), ("support", NUM_SUPPORT)])
def test_each_split_has_its_items_with_pictures_and_answers(data, task, split, number):
    items = task.read(str(data), split)
    assert len(items) == number == len({item.id for item in items})
    for item in items:
        assert item.image.is_file() and item.answers and item.example
        assert (item.question is None) == (task.metric == "cider")
        assert "\n" not in item.example and "  " not in (item.question or "")


def test_queries_and_examples_share_no_picture(data):
    for task in PUBLISHED:
        queries, support = (task.read(str(data), split) for split in ("queries", "support"))
        assert not {item.image for item in queries} & {item.image for item in support}


def test_coco_is_karpathys_test_split_and_shows_train_and_restval(data):
    assert [item.id for item in read(data, "coco")] == [str(1000 + n) for n in range(NUM_QUERIES)]
    assert [item.image.parent.name for item in read(data, "coco", "support")] == ["train2014"] * 3 + [
        "val2014"
    ] * 3
    item = read(data, "coco")[0]
    assert item.answers == (
        caption(1000),
        f"a picture of {caption(1000).lower()}\n",
    )  # as written, for the metric
    assert item.example == caption(1000)


def test_nocaps_has_domains_and_coco_s_examples(data):
    items = read(data, "nocaps")
    assert [item.group for item in items] == [
        "in-domain",
        "near-domain",
        "out-domain",
        "in-domain",
        "near-domain",
    ]
    assert items[0].answers == (caption(2000), "Some things.")
    assert read(data, "nocaps", "support") == read(data, "coco", "support")


def test_textcaps_gathers_the_captions_of_a_picture(data):
    items = read(data, "textcaps")
    assert [item.answers for item in items] == [
        (caption(3000 + n), "Letters and digits.") for n in range(NUM_QUERIES)
    ]


@pytest.mark.parametrize("name", VQA)
def test_questions_have_ten_answers_and_show_the_commonest(data, name):
    for item in read(data, name):
        assert len(item.answers) == 10
    support = read(data, name, "support")
    first = {"vqav2": 4100, "okvqa": 4100, "textvqa": 5100, "vizwiz": 6100}[name]
    expected = [color_of(first + n) for n in range(NUM_SUPPORT)]
    if name == "okvqa":  # the stemmed answer is scored, the written one is shown
        assert support[0].answers[0] == expected[0]
        expected = [f"{color}ish" for color in expected]
    if name == "vizwiz":
        expected[0] = "unanswerable"
    assert [item.example for item in support] == expected


def test_questions_are_scored_by_kind_where_the_data_tell_it(data):
    assert {item.group for item in read(data, "vqav2")} == {"other", "yes/no"}
    assert {item.group for item in read(data, "vizwiz")} == {"other", "unanswerable"}
    assert {item.group for item in read(data, "gqa")} == {"query", "choose"}
    assert (
        {item.group for item in read(data, "okvqa")}
        == {item.group for item in read(data, "textvqa")}
        == {None}
    )


def test_files_may_lie_in_one_folder_without_folders_for_the_sets(data, tmp_path):
    for path in (data / "coco").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "images").symlink_to(data / "gqa" / "images")
    for path in (data / "gqa" / "questions1.2").iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert [item.answers for item in read(tmp_path, "coco")] == [item.answers for item in read(data, "coco")]
    assert all(item.image.is_file() for item in read(tmp_path, "gqa"))


@pytest.mark.parametrize("task", PUBLISHED, ids=lambda task: task.name)
def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path, task):
    with pytest.raises(DataError, match=rf"{task.name}: there is no \S+\.json in {tmp_path}.*`data`"):
        task.read(str(tmp_path), "queries")


def test_a_file_of_another_layout_is_refused(tmp_path, subtests):
    contents = ["{}", "[1]", '{"images": 3, "data": [{}], "questions": {}}', "[", '{"a": {"b": 1}}']
    names = [
        "dataset_coco.json",
        "nocaps_val_4500_captions.json",
        "TextCaps_0.1_val.json",
        "TextVQA_0.5.1_val.json",
        "val.json",
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
        "testdev_balanced_questions.json",
        "OpenEnded_mscoco_val2014_questions.json",
        "mscoco_val2014_annotations.json",
    ]
    for content in contents:
        for name in names:
            (tmp_path / name).write_text(content)
        for task in PUBLISHED:
            with subtests.test(msg=f"{task.name}, {content}"):
                if task.name in ("gqa", "vizwiz") and content == "{}":
                    assert task.read(str(tmp_path), "queries") == []  # refused as empty later
                    continue
                with pytest.raises(DataError, match=r"is not laid out as|is not valid JSON"):
                    task.read(str(tmp_path), "queries")


@pytest.mark.parametrize(("data", "message"), [(None, "reads files"), ("/no/where", "is no folder")])
def test_data_must_be_a_folder(data, message):
    for task in (*PUBLISHED, TASKS["rows"]):
        with pytest.raises(DataError, match=message):
            task.read(data, "queries")


OWN = [
    {"image": 8000, "question": "What is it?", "answer": "a cat", "choices": ["a cat", "a dog"]},
    {"image": 8001, "question": "And this?", "answers": ["a dog", "dog"]},
    {"question": "Is there no picture?", "answer": "yes", "rationale": "None was given."},
    {
        "image": 8002,
        "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A\nhorse."}],
    },
]


def test_own_rows_come_in_the_forms_of_training_rows(tmp_path):
    write_rows(tmp_path, OWN)
    items = read(tmp_path, "rows")
    assert [item.id for item in items] == ["1", "2", "3", "4"]  # lines
    assert [item.question for item in items] == ["What is it?", "And this?", "Is there no picture?", "What?"]
    assert [item.answers for item in items] == [("a cat",), ("a dog", "dog"), ("yes",), ("A horse.",)]
    assert [item.example for item in items] == ["a cat", "a dog", "yes", "A horse."]
    assert items[0].choices == ("a cat", "a dog") and items[2].rationale == "None was given."
    assert items[2].image is None and items[3].image == tmp_path / "8002.png"
    assert TASKS["rows"].pick_metric(items) == "exact"


def test_what_a_row_shows_is_right_beside_what_else_it_lists(tmp_path):
    asked = {"image": 1, "question": "What?", "answer": "a cat"}
    told = {"image": 2, "caption": "A dog."}
    write_rows(tmp_path / "asked", [asked | {"answers": ["cat"]}, asked | {"answers": ["cat", "a cat"]}])
    write_rows(tmp_path / "told", [told | {"captions": ["An animal."]}])
    assert [item.answers for item in read(tmp_path / "asked", "rows")] == [("a cat", "cat"), ("cat", "a cat")]
    (item,) = read(tmp_path / "told", "rows")
    assert (item.answers, item.example) == (("A dog.", "An animal."), "A dog.")


def test_own_captions_are_scored_by_cider(tmp_path):
    write_rows(tmp_path, [{"image": 1, "caption": "A cat.", "captions": ["A cat.", "An animal."]}])
    items = read(tmp_path, "rows")
    assert items[0].answers == ("A cat.", "An animal.") and TASKS["rows"].pick_metric(items) == "cider"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": 1, "question": "What?"}, "line 2: there is a question but no answer"),
        ({"text": "Words."}, "line 2: it is no single question"),
        ({"images": ["1.png", "1.png"], "question": "What?", "answer": "a"}, "line 2: it has 2 pictures"),
        ({"image": 1, "question": "What?", "answer": "a", "choices": [1]}, "line 2: choices is"),
        ({"image": 1, "caption": "A cat."}, "both questions and captions"),
    ],
)
def test_own_rows_that_cannot_be_asked_are_named(tmp_path, row, message):
    write_rows(tmp_path, OWN[:1])
    if row.get("image") == 1:
        write_rows(tmp_path / "other", [row])
        (tmp_path / "other" / "1.png").rename(tmp_path / "1.png")
        row = row | {"image": "1.png"}
    elif "images" in row:
        (tmp_path / "1.png").write_bytes((tmp_path / "8000.png").read_bytes())
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path, "rows")


def test_own_rows_come_from_the_hub_too(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [{"question": "What is it?", "answers": ["a", "b"], "choices": ["a", "c"]}]
    made = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows)}
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration: made)
    (item,) = read("someone/rows", "rows")
    assert (item.question, item.answers, item.choices) == ("What is it?", ("a", "b"), ("a", "c"))
    del made["test"]
    with pytest.raises(DataError, match="no rows in a split test"):
        read("someone/rows", "rows")


def test_tasks_are_found_by_name_and_by_their_beginning():
    assert [task.name for task in find_tasks(["text*", "coco", "coco"])] == ["textcaps", "textvqa", "coco"]
    for names, message in (
        (["cocoa"], "'cocoa', which is none of coco, nocaps"),
        ([], "is empty"),
        (["x*"], "'x\\*'"),
    ):
        with pytest.raises(DataError, match=message):
            find_tasks(names)
