"""What is written stands under the name given, and takes the place of nothing but its like."""

import os
import stat

import pytest

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.locking import lock_folder, lock_path
from mm1_mlx.files.writing import clean_up, new_file, new_files, new_folder


def write(path, text="new", **options):
    with new_file(path, **options) as made:
        made.write_text(text)


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def link(pipe):
    (pipe.parent / "link").symlink_to(pipe)
    return pipe.parent / "link"


@pytest.mark.parametrize("name", ["notes", "notes.txt", ".hidden", "a b.safetensors.txt"])
@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_a_file_has_the_very_name_given(name, suffix, tmp_path):
    write(tmp_path / name, suffix=suffix)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "new"


def test_the_hidden_name_ends_as_a_library_wants_it(tmp_path):
    for name in ("notes", "notes.safetensors"):
        with new_file(tmp_path / name, suffix=".safetensors") as made:
            assert made.name.startswith(".") and made.name.endswith(
                name.removesuffix(made.suffix) + made.suffix
            )
            assert made.suffix == ".safetensors" and made.parent == tmp_path


def test_a_file_is_replaced_only_when_all_is_written(tmp_path):
    path = tmp_path / "notes"
    write(path, "old")
    with pytest.raises(KeyboardInterrupt), new_file(path) as made:
        made.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "else" / "notes")
    for text in ("old", "new"):
        write(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "else" / "notes").read_text() == text


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_what_is_no_file_is_neither_replaced_nor_written_to(name, link, tmp_path):
    for writing in (
        new_file(tmp_path / name),
        new_files(tmp_path, ["other", name]),
        new_folder(tmp_path / name, overwrite=True),
    ):
        with pytest.raises(CheckpointError, match=f"{name} is no "), writing:
            pytest.fail("it began to write")
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode) and link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link"}


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(CheckpointError, match="notes is a folder"):
        write(tmp_path / "notes")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_folder_that_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "left").touch()
    (tmp_path / "link").symlink_to(tmp_path / "old")
    with new_folder(tmp_path / "link", overwrite=True) as made:
        (made / "right").touch()
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "old") == ["right"]
    assert {path.name for path in tmp_path.iterdir()} == {"link", "old"}


def test_files_move_into_their_folder_together_and_others_stay(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("old")
    (folder / "c").write_text("mine")
    with pytest.raises(OSError), new_files(folder, ["a", "b"]) as made:
        (made / "a").write_text("new")
        raise OSError("disk full")
    assert (folder / "a").read_text() == "old" and sorted(os.listdir(folder)) == ["a", "c"]
    with new_files(folder, ["a", "b"]) as made:
        for name in ("a", "b"):
            (made / name).write_text("new")
    assert {name: (folder / name).read_text() for name in os.listdir(folder)} == {
        "a": "new",
        "b": "new",
        "c": "mine",
    }


def test_a_file_of_another_kind_is_not_replaced(tmp_path):
    def is_list(path):
        return path.read_text().startswith("[")

    for text, allowed in (("[1]", True), ("", True), ("my notes", False)):
        (tmp_path / "notes").write_text(text)
        writing = new_file(tmp_path / "notes", is_kind=is_list, kind="list")
        if allowed:
            with writing as made:
                made.write_text("[2]")
        else:
            with pytest.raises(CheckpointError, match="notes is there already and is no list"), writing:
                pytest.fail("it began to write")
        assert (tmp_path / "notes").read_text() == ("[2]" if allowed else text)
    assert os.listdir(tmp_path) == ["notes"]


def test_a_folder_of_another_kind_is_not_replaced(tmp_path):
    for number, (files, allowed) in enumerate(
        ((["config.json", "model-1.x"], True), ([], True), (["a"], False))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in files:
            (folder / name).touch()
        writing = new_folder(folder, overwrite=True, kind=("config.json", "model*.x"))
        if allowed:
            with writing as made:
                (made / "new").touch()
        else:
            with pytest.raises(
                CheckpointError, match=r"2 has no config.json, so it is not what is written here"
            ):
                writing.__enter__()
        assert os.listdir(folder) == (["new"] if allowed else files)
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2"]


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path):
    others = [".mm1-0123456789ab.other", ".out.mm1-news", ".out-2024", ".mm1-x.notes"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".out.mm1-new").mkdir()
    (tmp_path / ".out.mm1-new" / "half").touch()
    (tmp_path / ".mm1-0123456789ab.notes").touch()
    with new_folder(tmp_path / "out") as made:
        assert os.listdir(made) == []
        (made / "new").touch()
    write(tmp_path / "notes")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "notes", "out"])
    clean_up(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*others[1:], "notes", "out"])


def test_what_is_being_written_stays(tmp_path):
    with new_file(tmp_path / "notes") as first, new_folder(tmp_path / "out") as out:
        write(tmp_path / "notes", "second")
        clean_up(tmp_path)
        assert first.exists() and out.exists()
        first.write_text("first")
    assert (tmp_path / "notes").read_text() == "first"


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path):
    with new_folder(tmp_path / "out") as made:
        with pytest.raises(CheckpointError, match=r"another process is writing .*out; wait until it ends"):
            new_folder(tmp_path / "out").__enter__()
        (made / "first").touch()
    assert os.listdir(tmp_path / "out") == ["first"]
    with new_files(tmp_path, ["a"]) as made:
        with pytest.raises(CheckpointError, match="another process is writing"):
            new_files(tmp_path, ["a"]).__enter__()
        (made / "a").touch()


def test_a_folder_whose_replacement_was_killed_half_way_is_put_back(tmp_path):
    for name, content in ((".out.mm1-old", "old"), (".out.mm1-new", "new"), (".a.mm1-old", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).touch()
    with pytest.raises(CheckpointError, match="out exists"):
        new_folder(tmp_path / "out").__enter__()
    assert os.listdir(tmp_path / "out") == ["old"]
    clean_up(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "out"] and os.listdir(tmp_path / "a") == ["a"]


def test_a_full_disk_is_told_with_the_name_that_was_asked_for(tmp_path, small_files):
    for name, writing in (
        ("notes", new_file(tmp_path / "notes")),
        ("out", new_folder(tmp_path / "out")),
        ("all", new_files(tmp_path / "all", ["a"])),
    ):
        with small_files(100), pytest.raises(OSError) as caught, writing as made:
            (made / "a" if made.is_dir() else made).write_text(2000 * "x")
        assert caught.value.filename == str(tmp_path / name) and caught.value.strerror == "File too large"
    assert os.listdir(tmp_path) == ["all"] and os.listdir(tmp_path / "all") == []


def test_an_error_of_reading_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, new_file(tmp_path / "notes"):
        (tmp_path / "absent").read_text()
    assert caught.value.filename == str(tmp_path / "absent")


def test_a_lock_is_of_what_stands_there(tmp_path):
    path = tmp_path / "lock"
    with lock_path(path, path.touch) as locked:
        assert locked
        with pytest.raises(BlockingIOError):
            lock_path(path, path.touch).__enter__()
        path.unlink()
        with lock_path(path, path.touch):
            assert path.exists()


def test_a_folder_in_which_another_process_works_is_not_replaced(tmp_path):
    folder = tmp_path / "folder"
    with lock_folder(folder):
        (folder / "work").touch()
        with (
            pytest.raises(CheckpointError, match=r"another process is writing .*folder"),
            new_folder(folder, overwrite=True),
        ):
            pytest.fail("it began to write")
    assert os.listdir(folder) == ["work"]


def test_a_folder_that_another_process_made_meanwhile_is_not_replaced(tmp_path):
    folder = tmp_path / "folder"
    with pytest.raises(CheckpointError, match="folder exists"), new_folder(folder) as made:
        (made / "late").touch()
        folder.mkdir()
        (folder / "work").touch()
    assert os.listdir(folder) == ["work"] and os.listdir(tmp_path) == ["folder"]


def test_nobody_begins_to_work_where_a_folder_is_being_written(tmp_path):
    with new_folder(tmp_path / "folder") as made:
        (made / "new").touch()
        with pytest.raises(BlockingIOError), lock_folder(tmp_path / "folder"):
            pytest.fail("it was locked")
    with lock_folder(tmp_path / "folder"):
        assert os.listdir(tmp_path / "folder") == ["new"]
