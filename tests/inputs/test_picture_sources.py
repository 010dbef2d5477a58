"""Where a picture may be, however it is written; and what is no picture at all."""

import base64
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_picture import PNG, SCENE, encode, opened, png_chunk, png_claiming

from mm1_mlx.data.row_forms import read_row
from mm1_mlx.errors import PictureError, PromptError
from mm1_mlx.generation.batch_file import read_rows
from mm1_mlx.inputs import picture as picture_module
from mm1_mlx.inputs.few_shot import read_shots
from mm1_mlx.inputs.picture import find_picture, open_picture
from mm1_mlx.inputs.typed_paths import one_path
from mm1_mlx.seeing.draw import output_path

BASE64 = base64.b64encode(PNG).decode()


def test_a_data_url_may_be_written_in_any_way(subtests):
    lines = "\r\n".join(BASE64[at : at + 76] for at in range(0, len(BASE64), 76))
    escaped = BASE64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    urls = (
        f"DATA:IMAGE/PNG;BASE64,{BASE64}",
        f"data:image/png;base64,{lines}\n",
        f"data:image/png;base64,{lines.replace(chr(13) + chr(10), '%0A')}",
        f"data:image/png;charset=utf-8;Base64,{escaped}",
        f"data:;base64, {BASE64}",
    )
    for url in urls:
        with subtests.test(msg=url[:40]):
            np.testing.assert_array_equal(opened(url), SCENE)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with a picture whose name must be escaped in a URL; the current folder is another one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a cat.png").write_bytes(PNG)
    (tmp_path / "rows").mkdir()
    monkeypatch.chdir(tmp_path / "rows")
    return tmp_path


def written(home):
    url = f"{home}/a%20cat.png"
    return (
        "~/a cat.png",
        f"file://{url}",
        f"FILE://localhost{url}",
        f"file:{url}",
        f"{home}/a cat.png",
        "../a cat.png",
    )


def test_a_path_may_be_a_file_url_or_begin_with_a_tilde_wherever_it_stands(home, subtests):
    rows = home / "rows" / "rows.jsonl"
    for source in written(home):
        with subtests.test(msg=source):
            np.testing.assert_array_equal(opened(source), SCENE)
            assert os.path.samefile(one_path(source), home / "a cat.png")
            rows.write_text(f'{{"prompt": "?", "image": "{source}", "question": "?", "answer": "!"}}')
            record = read_row({"image": source, "caption": "A cat."}, name="row", folder=rows.parent)
            assert os.path.samefile(record.images[0], home / "a cat.png")
            rows.write_text(f'{{"prompt": "?", "image": "{source}"}}')
            assert os.path.samefile(read_rows(rows)[0].images[0], home / "a cat.png")
            rows.write_text(f'{{"image": "{source}", "question": "?", "answer": "!"}}')
            assert os.path.samefile(read_shots(rows)[0].image, home / "a cat.png")


def test_a_data_url_in_capitals_is_a_data_url_in_rows_too(tmp_path):
    url, rows = f"DATA:image/png;BASE64,{BASE64}", tmp_path / "rows.jsonl"
    rows.write_text(f'{{"prompt": "?", "image": "{url}"}}')
    assert read_rows(rows)[0].images == [url]
    assert read_row({"image": url, "caption": "A cat."}, name="row", folder=tmp_path).images == (url,)
    assert output_path(None, url, "views") == Path("picture-views.png")
    rows.write_text('{"image": "HTTPS://example.org/cat.png", "question": "?", "answer": "!"}')
    with pytest.raises(PromptError, match="image is the web address HTTPS://example"):
        read_shots(rows)


def test_what_might_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in ("/dev/zero", tmp_path / "pipe.png"):
        with pytest.raises(PictureError) as error:
            open_picture(path)
        assert str(error.value) == (
            f"{path} is no regular file; give a picture file, or - and the picture on stdin."
        )


def test_a_file_larger_than_any_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mm1_mlx.inputs.sources.MAX_PICTURE_BYTES", len(PNG) - 1)
    (tmp_path / "cat.png").write_bytes(PNG)
    with pytest.raises(
        PictureError, match=rf"cat.png has more than {len(PNG) - 1:,} bytes, the limit of a picture"
    ):
        open_picture(tmp_path / "cat.png")


def test_an_empty_path_is_refused():
    with pytest.raises(PictureError, match="the path of the picture is empty"):
        open_picture("")


def test_characters_that_command_a_terminal_are_escaped(tmp_path):
    name = "cat\x1b[31m\x07\x9b\u202egnp.\x00"
    with pytest.raises(PictureError) as error:
        open_picture(tmp_path / name.replace("\0", ""))
    assert str(error.value) == f"there is no picture at {tmp_path}/cat\\x1b[31m\\x07\\x9b\\u202egnp.."
    with pytest.raises(PictureError, match=r"cat\\x1b.*gnp\.\\x00 cannot be read: embedded null byte"):
        open_picture(name)


def test_what_is_no_picture_at_all_is_said_in_words():
    """Types are checked under pytest, so this runs without it."""
    code = (
        "from mm1_mlx.errors import PictureError\n"
        "from mm1_mlx.inputs.picture import find_picture, require_list\n"
        "for check, value in [(find_picture, None), (find_picture, 123), (require_list, 'a.png'), (require_list, None)]:\n"
        "    try: check(value)\n"
        "    except PictureError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "the picture is None, expected a path, bytes, a data: URL, a PIL image or an array.",
        "the picture is 123, expected a path, bytes, a data: URL, a PIL image or an array.",
        "`images` is 'a.png', expected a list of pictures, such as [picture].",
        "`images` is None, expected a list of pictures, such as [picture].",
    ]


def test_of_several_frames_it_is_said_once_that_the_first_is_read(tmp_path, monkeypatch, caplog, subtests):
    later = [Image.fromarray(np.ascontiguousarray(SCENE[::-1]))]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        with subtests.test(msg=kind), caplog.at_level(logging.WARNING, "mm1_mlx"):
            caplog.clear()
            monkeypatch.setattr(
                picture_module, "_several_frames_said", type(picture_module._several_frames_said)()
            )
            path = tmp_path / f"cat.{kind.lower()}"
            options = {"lossless": True} if kind == "WEBP" else {}
            path.write_bytes(encode(SCENE, kind, save_all=True, append_images=later, **options))
            for _ in range(2):
                np.testing.assert_array_equal(opened(path), SCENE)
            assert caplog.messages == [
                f"{path} has several frames or pages; of such pictures, only the first is read."
            ]
            caplog.clear()
            find_picture(encode(SCENE, kind, **options))
            assert not caplog.messages


def test_a_long_line_is_refused_before_it_is_decoded():
    for width, height in ((149_000_000, 1), (1, 60_000_000), (65_536, 2)):
        with pytest.raises(PictureError) as error:
            find_picture(png_claiming(width, height))
        assert str(error.value) == (
            f"the picture has {width} x {height} pixels, and the longest side that is read has 65,535; "
            "cut it into pieces."
        )
    assert find_picture(png_claiming(65_535, 2)).size == (65_535, 2)


def test_a_huge_picture_inside_an_icon_is_refused():
    icon = encode(SCENE, "ICO", sizes=[(32, 32)])
    start, end = icon.index(b"\x89PNG"), icon.index(b"IHDR") + 21
    header = png_claiming(60_000, 50_000)[16:29]
    data = icon[:start] + b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + icon[end:]
    with pytest.raises(PictureError, match="60000 x 50000 = 3,000,000,000 pixels"):
        find_picture(data)
