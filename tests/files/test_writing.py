"""What is written stands under the name given, and takes the place of nothing but its like."""

import os
import stat

import pytest

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.writing import new_file, new_files, new_folder


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
    with pytest.raises(IsADirectoryError):
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
