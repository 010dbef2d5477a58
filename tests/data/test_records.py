"""Rows of every form, files as people have them, and what is said of rows at fault."""

import base64
import json
import re
import sys
import tempfile
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mm1_mlx.data import row_forms
from mm1_mlx.data.records import RecordFile, Records, open_data, open_folder, open_records
from mm1_mlx.data.row_forms import Record, Turn, read_row
from mm1_mlx.data.sampler import order
from mm1_mlx.errors import DataError
from mm1_mlx.inputs.prompt import messages_of, num_places, unescape

PNG = b"\x89PNG"  # pictures are not opened here
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()

texts = st.text(min_size=1).filter(lambda text: text.strip() and "<image>" not in text)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat.png", "dog.png", "für Ärzte 🐈.png"):
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def read(values, folder=None):
    return read_row(values, name="row", folder=folder)


def user(content):
    return {"role": "user", "content": content}


def assistant(content="A cat."):
    return {"role": "assistant", "content": content}


def part(text):
    return {"type": "text", "text": text}


PICTURE = {"type": "image"}


# Forms


def test_every_example_of_the_documentation_is_of_its_form(folder):
    examples = re.findall(r"^    (\w+) +(\{.*(?:\n {10,}.*)*)", row_forms.__doc__, re.MULTILINE)
    assert {name for name, _ in examples} == set(row_forms.Form.__args__)
    for name, example in examples:
        record = read(json.loads(example), folder)
        assert record.form == name
        assert len(record.images) == (name != "text")


def test_a_question_has_its_picture_first(folder):
    record = read({"question": "What?", "answer": "A cat.", "image": "cat.png", "id": 7}, folder)
    assert record.turns == (Turn("user", "<image>What?"), Turn("assistant", "A cat."))
    assert (record.document, record.images) == (None, (folder / "cat.png",))


def test_of_several_answers_the_first_is_taught_and_a_rationale_comes_before_it():
    values = {"question": "How many?", "answers": ["2", "two"], "rationale": "One and one."}
    assert read(values).turns[1] == Turn("assistant", "One and one. 2")


def test_a_caption_is_a_document_that_begins_with_its_picture(folder):
    record = read({"image": "cat.png", "caption": "A cat."}, folder)
    assert (record.document, record.turns) == ("<image>A cat.", ())


def test_pictures_stand_in_the_parts_of_messages_or_beside_them(folder):
    inside = [user([part("Is "), PICTURE | {"path": "cat.png"}, part("as "), PICTURE | {"url": DATA_URL}])]
    beside = [user([part("Is "), PICTURE | {"index": 0}, part("as "), PICTURE | {"index": 1}])]
    ours = read({"messages": [*inside, assistant()]}, folder)
    theirs = read({"messages": [*beside, assistant()], "images": ["cat.png", DATA_URL]}, folder)
    assert ours == theirs
    assert ours.turns[0].text == "Is <image>as <image>"
    assert ours.images == (folder / "cat.png", DATA_URL)


def test_messages_may_name_places_in_their_text(folder):
    record = read({"messages": [user("Is <image> fat?"), assistant()], "image": "cat.png"}, folder)
    assert (record.turns[0].text, record.num_unplaced) == ("Is <image> fat?", 0)


def test_an_escaped_place_needs_no_picture(folder):
    values = {"question": "Is <image> an \\<image>?", "answer": "\\<image>", "image": "cat.png"}
    record = read(values, folder)
    assert record.turns == (Turn("user", values["question"]), Turn("assistant", "\\<image>"))
    assert read({"text": "\\<image>"}).images == ()


def test_a_backslash_before_a_picture_part_leaves_the_picture(folder):
    parts = [part("C:\\"), PICTURE | {"path": "cat.png"}, part("\\<image>"), PICTURE | {"path": "dog.png"}]
    record = read({"messages": [user(parts), assistant()]}, folder)
    assert record.turns[0].text == "C:\\\\<image>\\<image><image>"
    assert record.images == (folder / "cat.png", folder / "dog.png")


@pytest.mark.parametrize("after_image", ["", "\nHuman: "])
def test_pictures_without_a_place_come_where_a_prompt_has_them(folder, after_image):
    messages = [{"role": "system", "content": "Be short."}, user("Which?"), assistant()]
    record = read({"messages": messages, "images": ["cat.png", "dog.png"]}, folder)
    assert record.turns[1].text == "<image><image>Which?"
    assert record.messages(after_image) == messages_of(messages, 2, after_image=after_image)


def test_a_row_as_arrow_gives_it_has_null_in_the_keys_of_other_rows(folder):
    parts = [{"type": "image", "text": None, "index": 0}, {"type": "text", "text": "What?", "index": None}]
    values = {"messages": [user(parts), assistant()], "images": [{"bytes": PNG, "path": None}], "text": None}
    record = read(values)
    assert (record.turns[0].text, record.images) == ("<image>What?", (PNG,))


def test_pictures_are_paths_urls_of_data_bytes_or_open(folder):
    opened = Image.new("RGB", (2, 2))
    kinds = ["cat.png", str(folder / "cat.png"), "für Ärzte 🐈.png", DATA_URL, PNG, opened]
    kinds += [{"bytes": PNG, "path": "gone.png"}, {"bytes": None, "path": "cat.png"}]
    record = read({"question": "?", "answer": "!", "images": kinds}, folder)
    paths = [folder / "cat.png", folder / "cat.png", folder / "für Ärzte 🐈.png"]
    assert record.images == (*paths, DATA_URL, PNG, opened, PNG, folder / "cat.png")


def test_unicode_comes_through():
    assert read({"text": "Ünï 猫 🐈 ‮"}).document == "Ünï 猫 🐈 ‮"


@given(st.lists(st.tuples(texts, texts), min_size=1), st.none() | texts)
def test_a_conversation_is_the_same_in_every_form(pairs, system):
    said = [("system", system)] * (system is not None)
    said += [turn for asked, told in pairs for turn in (("user", asked), ("assistant", told))]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    plain = read({"messages": [{"role": role, "content": text} for role, text in said]})
    parts = read({"messages": [{"role": role, "content": [part(text)]} for role, text in said]})
    llava = read({"conversations": [{"from": names[role], "value": text} for role, text in said]})
    assert plain.turns == parts.turns == llava.turns == tuple(Turn(role, text) for role, text in said)


@given(st.lists(st.none() | texts, min_size=1).filter(any))
def test_an_interleaved_document_keeps_its_reading_order(pieces):
    pictures = [None if text else f"{PNG!r} {number}".encode() for number, text in enumerate(pieces)]
    record = read({"images": pictures, "texts": pieces})
    assert unescape(record.document) == "".join(unescape(text or "<image>") for text in pieces)
    assert num_places(record.document) == pieces.count(None)
    assert record.images == tuple(picture for picture in pictures if picture)


# Rows at fault

CHAT = {"messages": [user("What?"), assistant()]}
LONG = "x" * 1000
FAULTS = [
    ({}, "its keys (none) fit no form; give messages, conversations, question and answer"),
    ({"id": 1, "Mesages": []}, "its keys ('id', 'Mesages') fit no form (is 'Mesages' meant to be messages?)"),
    ({"images": ["cat.png"]}, "its keys ('images') fit no form; give"),
    ({"messages": None, "text": None}, "its keys (none) fit no form"),
    ({"messages": []}, "messages is [], expected a list with something in it"),
    ({"messages": "[]"}, "messages is '[]', expected a list"),
    ({"messages": ["x"]}, "messages[0] is 'x', expected a JSON object"),
    ({"messages": [{"content": "x"}]}, "messages[0].role is None, expected system, user or assistant"),
    ({"messages": [{"role": ["user"]}]}, "messages[0].role is ['user'], expected system, user or assistant"),
    ({"messages": [user(None)]}, "messages[0].content is None, expected text or a list"),
    ({"messages": [user([])]}, "messages[0].content is [], expected text or a list"),
    ({"messages": [user([3])]}, "messages[0].content[0] is 3, expected a JSON object"),
    ({"messages": [user([{"type": "text"}])]}, "messages[0].content[0].text is None, expected text"),
    (
        {"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])]},
        'messages[0].content[0].type is \'image_url\', expected "text" or "image"; a picture is {"type": "image"}',
    ),
    (
        {
            "messages": [user([PICTURE | {"index": 1}, PICTURE | {"index": 0}])],
            "images": ["cat.png", "dog.png"],
        },
        "messages[0].content[0].index is 1, but this is place 0; put images in reading order",
    ),
    (
        {"messages": [user([PICTURE | {"path": "cat.png"}]), assistant()], "image": "cat.png"},
        "messages[0].content[0].path and image are both given; keep one of them",
    ),
    ({"messages": [user("x")]}, "messages[0], the last turn, is not assistant's, so it teaches nothing"),
    ({"messages": [*CHAT["messages"], user("x")]}, "messages[2], the last turn, is not assistant's"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages[0], the last turn, is not assistant's"),
    (
        {"messages": [assistant()]},
        "messages[0] is assistant's, expected user's: a system turn may come first",
    ),
    ({"messages": [user("x"), user("y"), assistant()]}, "messages[1] is user's, expected assistant's"),
    (
        {"messages": [*CHAT["messages"], {"role": "system", "content": "x"}]},
        "messages[2] is system's, expected user's",
    ),
    ({"messages": [user("x"), assistant(" ")]}, "messages[1] is empty; write it, or take the row out"),
    ({"messages": [user(""), assistant()]}, "messages[0] is empty; write it"),
    (
        {"messages": [user("x"), assistant("<image>")], "image": "cat.png"},
        "messages[1] is assistant's and holds <image>, but the model writes text alone",
    ),
    (CHAT | {"image": "cat.png", "images": []}, "image and images are both given; keep one of them"),
    ({"conversations": {}}, "conversations is {}, expected a list"),
    (
        {"conversations": [{"from": "bot", "value": "x"}]},
        "conversations[0].from is 'bot', expected human, gpt",
    ),
    ({"conversations": [{"from": [], "value": "x"}]}, "conversations[0].from is [], expected human, gpt"),
    ({"conversations": [{"from": "human"}]}, "conversations[0].value is None, expected text"),
    ({"question": "What?"}, "there is a question but no answer; add it"),
    ({"question": "?", "anwser": "x"}, "no answer (is 'anwser' meant to be answer?); add it"),
    ({"question": "?", "answer": 3}, "answer is 3, expected text"),
    ({"question": "?", "answer": " "}, "answer is empty; write it"),
    ({"question": "?", "answers": []}, "there is a question but no answer; add it"),
    ({"question": "?", "answers": ["x", {"answer": "x"}]}, "answers[1] is {'answer': 'x'}, expected text"),
    ({"question": "?", "answer": "x", "rationale": ""}, "rationale is empty; write it"),
    ({"question": 3, "answer": "x"}, "question is 3, expected text"),
    ({"question": "", "answer": "x"}, "question is empty; write it"),
    ({"question": "?", "answer": "<image>", "image": "cat.png"}, "answer is assistant's and holds <image>"),
    ({"texts": ["x"]}, "there are texts but no images; add them, null for a text"),
    ({"texts": ["x"], "images": "cat.png"}, "images is 'cat.png', expected a list"),
    ({"texts": "x", "images": [None]}, "texts is 'x', expected a list"),
    ({"texts": ["x"], "images": [None, "cat.png"]}, "images has 2 entries and texts 1; give as many"),
    (
        {"texts": ["x", None], "images": [None, None]},
        "images[1] and texts[1] are both null; give one of them",
    ),
    ({"texts": ["x"], "images": ["cat.png"]}, "images[0] and texts[0] are both given; give one of them"),
    ({"texts": [3], "images": [None]}, "texts[0] is 3, expected text"),
    ({"texts": [None], "images": ["cat.png"]}, "there is no text to learn; write some"),
    ({"texts": [], "images": []}, "there is no text to learn; write some"),
    ({"texts": ["<image>"], "images": [None]}, "the text has 1 <image> but the row has 0 pictures; write"),
    ({"caption": "x"}, "there is a caption but no image; give one image"),
    ({"caption": "x", "imge": "cat.png"}, "no image (is 'imge' meant to be image?); give one image"),
    ({"caption": "x", "images": ["cat.png", "cat.png"]}, "there is a caption but 2 pictures; give one image"),
    ({"caption": ["x"], "image": "cat.png"}, "caption is ['x'], expected text"),
    ({"caption": " ", "image": "cat.png"}, "there is no text to learn; write some"),
    ({"text": ""}, "there is no text to learn; write some"),
    ({"text": 3}, "text is 3, expected text"),
    ({"text": "x", "image": "cat.png"}, "image stands beside text; call the text caption"),
    (
        {"text": "See <image>."},
        "the text has 1 <image> but the row has 0 pictures; write <image> once for each",
    ),
    (
        {"question": "<image>?", "answer": "x", "imgae": "cat.png"},
        "the row has 0 pictures (is 'imgae' meant to be image?); write <image> once for each picture",
    ),
    (
        {"question": "<image><image>?", "answer": "x", "image": "cat.png"},
        "the text has 2 <image> but the row has 1 picture; write <image> once for each picture",
    ),
    (CHAT | {"image": "gone.png"}, "image is 'gone.png', but there is no such file in "),
    (CHAT | {"image": "."}, "image is '.', but there is no such file in "),
    (CHAT | {"image": "a\0b\ud800"}, r"image is 'a\x00b\ud800', but there is no such file in "),
    (CHAT | {"image": LONG}, f"image is '{LONG[:56]}…', but there is no such file in "),
    (CHAT | {"image": ""}, "image is '', expected the path of a picture or a data: URL"),
    (CHAT | {"images": ["cat.png", 3]}, "images[1] is 3, expected the path of a picture or a data: URL"),
    (CHAT | {"images": [None]}, "images[0] is None, expected the path of a picture or a data: URL"),
    (
        CHAT | {"image": {"bytes": None, "path": None}},
        "image is {'bytes': None, 'path': None}, expected the path",
    ),
    (CHAT | {"image": {"bytes": "x"}}, "image.bytes is 'x'; give a data: URL in place of the object"),
    (CHAT | {"image": "https://x.org/a.png"}, "image is the web address 'https://x.org/a.png'; download the"),
]


@pytest.mark.parametrize(("values", "words"), FAULTS, ids=[words[:60] for _, words in FAULTS])
def test_a_row_at_fault_is_named_with_its_field_and_what_to_do(folder, values, words):
    path = folder / "train.jsonl"
    path.write_text("\n" + json.dumps(values))
    with pytest.raises(DataError) as caught:
        open_records(path)[0]
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2: ") and words in message
    assert message.endswith(".") and "\n" not in message and len(message) < 400


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["<image>", "user", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "bytes", "path", "index"]),
            inner,
        )
    ),
    max_leaves=8,
)
KEYS = (*row_forms.FORMS, *row_forms.OTHER_KEYS, "other")


@given(st.dictionaries(st.sampled_from(KEYS), anything, max_size=4))
def test_whatever_a_row_holds_it_is_read_or_refused(values):
    try:
        record = read(values)
    except DataError:
        return
    said = record.document or "".join(turn.text for turn in record.turns)
    assert said.count("<image>") == len(record.images)


# Files


def test_rows_are_the_lines_that_are_not_blank():
    @given(
        rows=st.lists(st.tuples(texts, st.lists(st.sampled_from(["", " ", "\t "]), max_size=2)), min_size=1),
        newline=st.sampled_from(["\n", "\r\n"]),
        start=st.sampled_from(["", "\ufeff", "\ufeff\n"]),
        ended=st.booleans(),
        escaped=st.booleans(),
    )
    def check(rows, newline, start, ended, escaped):
        lines = [
            line
            for text, blanks in rows
            for line in [json.dumps({"text": text}, ensure_ascii=escaped), *blanks]
        ]
        lines = (start + "\n".join(lines)).split("\n")
        path.write_bytes((newline.join(lines) + newline * ended).encode())
        records = open_records(path)
        assert [record.document for record in records] == [text for text, _ in rows]
        numbers = [number for number, line in enumerate(lines, 1) if line.strip("\ufeff\t ")]
        assert [record.name for record in records] == [f"{path}, line {number}" for number in numbers]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        check()


def test_rows_can_be_asked_for_in_any_order_from_any_thread(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(500)))
    records = open_records(path)
    numbers = order(500, 0, 0).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: records[number].document, numbers))
    assert found == [f"text {number}" for number in numbers]
    assert isinstance(records, Records) and len(records) == 500


def test_only_the_row_that_is_asked_for_is_parsed(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "good"}\n{bad\n')
    records = open_records(path)
    assert records[0] == Record(f"{path}, line 1", (), "good", (), "text")
    with pytest.raises(
        DataError, match=r"line 2: this is not JSON \(.* at column 2\); write one object a line"
    ):
        records[1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[]", "expected a JSON object"),
        (b"null", "this is None, expected a JSON object"),
        (b'{"text": "\xff"}', "this is not UTF-8 (invalid start byte); save the file as UTF-8"),
        (b'{"text": ' + b"[" * 100_000, "this is not JSON (maximum recursion depth"),
        (b'{"text": ' + b"1" * 10_000 + b"}", "this is not JSON (Exceeds the limit"),
        ('{"text": "x"}'.encode("utf-16"), "this is not UTF-8"),
    ],
    ids=["list", "null", "bytes", "deep", "long", "utf-16"],
)
def test_a_line_that_is_no_object_is_refused(tmp_path, line, words):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"text": "x"}\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        open_records(path)[1]
    assert f"{path}, line 2: " in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "train.jsonl").write_text('{"text": "x"}')
    (tmp_path / "valid.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"valid\.jsonl holds no rows; write one JSON object a line"):
        open_folder(tmp_path)


def test_one_json_list_is_refused_when_it_is_opened(tmp_path):
    (tmp_path / "train.jsonl").write_text('\n[\n{"text": "x"}\n]')
    with pytest.raises(DataError, match="is a JSON list; write one object a line, as `jq"):
        open_folder(tmp_path)


@pytest.mark.parametrize("change", ["written", "deleted"])
def test_a_file_that_changes_under_way_is_noticed(tmp_path, change):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "x"}')
    records = open_records(path)
    if change == "written":
        path.write_text('\n{"text": "x"}')
    else:
        path.unlink()
    with pytest.raises(DataError, match=r"has changed since it was opened|cannot be read: No such file"):
        records[0]


# Folders and the hub


def test_a_folder_has_splits_of_which_train_must_be_there(folder):
    row = json.dumps({"image": "cat.png", "caption": "x"})
    for name in ("train", "test", "notes"):
        (folder / f"{name}.jsonl").write_text(row)
    found = open_data(str(folder))
    assert {split: type(rows) for split, rows in found.items()} == {"train": RecordFile, "test": RecordFile}
    assert found["test"][0].images == (folder / "cat.png",)


def test_rows_to_measure_alone_are_opened_where_these_are_needed(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"text": "A cat."}')
    assert list(open_data(str(tmp_path), needed="test")) == ["test"]
    with pytest.raises(DataError, match=r"there is no train.jsonl in .* but test.jsonl"):
        open_data(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "there is no train.jsonl in "),
        (["data.json", "valid.jsonl"], "but data.json, valid.jsonl; write one JSON object a line there"),
        (["train.jsonl", "validation.jsonl"], "validation.jsonl would not be read; rename it to valid.jsonl"),
        (["train.jsonl", "val.jsonl"], "val.jsonl would not be read; rename it to valid.jsonl"),
    ],
)
def test_a_folder_without_its_files_is_refused(tmp_path, files, words):
    for name in files:
        (tmp_path / name).write_text('{"text": "x"}')
    with pytest.raises(DataError) as caught:
        open_folder(tmp_path)
    assert words in str(caught.value)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}')
    with pytest.raises(DataError, match=r"is a file; call it train\.jsonl and give the folder"):
        open_data(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("source", ["nowhere", "no/such/folder", "x" * 5000, "a\0b"])
def test_what_is_neither_folder_nor_hub_id_is_refused(source):
    with pytest.raises(DataError, match="is no folder here and no hub id"):
        open_data(source)


def test_without_the_datasets_package_a_hub_id_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"owner/cats is no folder here.*pip install 'mm1-mlx\[data\]'"):
        open_data("owner/cats")


class Rows:
    """A split as far as ``datasets.Dataset`` is used here."""

    def __init__(self, rows):
        self.rows = rows
        self.features = types.SimpleNamespace(decode_example=lambda row: row)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return types.SimpleNamespace(to_pylist=lambda row=self.rows[index]: [row])

    def with_format(self, kind):
        assert kind == "arrow"
        return self


def put_hub(monkeypatch, load):
    """Have a function in place of the package that downloads data sets."""
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    monkeypatch.setattr("mm1_mlx.data.hub_rows.hub_is_reachable", lambda: True)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package ``datasets`` that holds these splits, and what it was asked for."""

    def hub(**splits):
        asked = []

        def load(*names):
            asked.append(names)
            return {key: Rows(rows) for key, rows in splits.items()}

        put_hub(monkeypatch, load)
        return asked

    return hub


def test_a_hub_data_set_has_the_same_splits(hub):
    row = {"image": {"bytes": PNG, "path": None}, "caption": "x"}
    asked = hub(train=[row, row], validation=[row], test=[], other=[row])
    found = open_data("owner/cats:small")
    assert asked == [("owner/cats", "small")]
    assert {split: len(rows) for split, rows in found.items()} == {"train": 2, "valid": 1}
    assert found["valid"][0] == Record("owner/cats:small, validation[0]", (), "<image>x", (PNG,), "caption")
    assert isinstance(found["train"], Records)


def test_a_hub_row_at_fault_is_named(hub):
    hub(train=[{"text": "x"}, {"image": "coco/1.jpg", "caption": "x"}])
    with pytest.raises(
        DataError, match=r"owner/cats, train\[1\]: image is the path 'coco/1.jpg', but this data"
    ):
        open_data("owner/cats")["train"][1]


def test_a_hub_data_set_without_rows_to_train_on_is_refused(hub):
    hub(train=[], test=[{"text": "x"}])
    with pytest.raises(
        DataError, match=r"owner/cats has no rows in a split train \(its splits: train, test\)"
    ):
        open_data("owner/cats")


def test_what_the_hub_says_is_handed_on(monkeypatch):
    def load(*_):
        raise ValueError("Config name is missing.\nPick one of\n ['a', 'b']")

    put_hub(monkeypatch, load)
    with pytest.raises(DataError, match=r"Pick one of \['a', 'b'\] \(A configuration goes behind the name"):
        open_data("owner/cats")


def test_rows_of_the_real_package_keep_their_pictures_closed(monkeypatch):
    datasets = pytest.importorskip("datasets")
    picture = {"bytes": PNG, "path": None}
    rows = [
        {"messages": CHAT["messages"], "images": [picture], "more": {"image": picture}, "content": "x"}
    ] * 2
    made = datasets.Dataset.from_list(
        rows,
        features=datasets.Features(
            {
                "messages": [{"role": datasets.Value("string"), "content": datasets.Json()}],
                "images": datasets.List(datasets.Image()),
                "more": {"image": datasets.Image()},
                "content": datasets.Value("string"),
            }
        ),
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"train": made}))
    record = open_data("owner/cats")["train"][1]
    assert (record.turns[0].text, record.images) == ("<image>What?", (PNG,))


# Content that a form does not read

CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED = {"question": "What?", "answer": "A cat."}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"messages": [user("x"), assistant() | {"tool_calls": [CALL]}]}, r"messages\[1\].tool_calls"),
        (
            {"messages": [user("x"), assistant() | {"reasoning_content": "two"}]},
            r"messages\[1\].reasoning_content",
        ),
        ({"messages": [user("x"), assistant()], "tools": [CALL]}, "tools"),
        ({"messages": [user("x"), assistant()], "system": "Be short."}, "system"),
        ({"messages": [user("x") | {"images": ["cat.png"]}, assistant()]}, r"messages\[0\].images"),
        (
            {"messages": [user([part("x") | {"image": "cat.png"}]), assistant()]},
            r"messages\[0\].content\[0\].image",
        ),
        ({"messages": [user("x"), assistant() | {"weight": 0}]}, r"messages\[1\].weight is 0, but all turns"),
        (
            {"conversations": [{"from": "human", "value": "x", "thinking": "hm"}]},
            r"conversations\[0\].thinking",
        ),
        (ASKED | {"context": "Cats are animals."}, "context"),
        (ASKED | {"reasoning": "It has ears."}, "reasoning"),
        (ASKED | {"caption": "A cat."}, "caption"),
        ({"caption": "A cat.", "text": "A cat on a mat.", "image": "cat.png"}, "text"),
        ({"caption": "A cat.", "rationale": "It has ears.", "image": "cat.png"}, "rationale"),
        ({"images": [None], "texts": ["x"], "image": "cat.png"}, "image"),
        ({"text": "A cat.", "video": "cat.mp4"}, "video"),
        (ASKED | {"image": "cat.png", "image_2": "cat.png"}, "image_2"),
        (ASKED | {"Context": "Cats are animals."}, "Context"),
    ],
)
def test_content_that_would_be_lost_is_named(values, field, folder):
    with pytest.raises(DataError, match=rf"row: {field}( is .*, which is not read here|)"):
        read(values, folder)


@pytest.mark.parametrize("key", ["image_path", "img", "Image", "picture", "file_name", "image_url", "photos"])
def test_a_picture_under_another_key_is_named_where_the_row_has_none(key, folder):
    with pytest.raises(DataError, match=f"row: {key} is 'cat.png', which is not read; call it image"):
        read(ASKED | {key: "cat.png"}, folder)
    shown = ASKED | {"image": "cat.png"}
    assert read(shown | {key: "cat.png"}, folder) == read(shown, folder)


def test_keys_without_content_are_nobodys_loss(folder):
    nothing = {"tools": [], "system": "", "context": None, "reasoning": {"text": None}, "video": " "}
    plain = {
        "id": 7,
        "source": "VQA",
        "choices": ["a cat", "a dog"],
        "answers": ["A cat."],
        "tags": {"a": "b"},
    }
    assert read(ASKED | nothing | plain) == read(ASKED)
    said = {
        "messages": [user("x"), assistant() | {"tool_calls": None, "weight": 1, "id": "a", "name": "bot"}]
    }
    assert read(said) == read({"messages": [user("x"), assistant()]})
