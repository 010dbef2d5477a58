"""Pictograms: classes, the pictures that are shipped, and sets fetched into a folder."""

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from mm1_mlx import tiny
from mm1_mlx.errors import DataError
from mm1_mlx.tiny import fetching
from mm1_mlx.tiny.fetching import PACKAGES, Package, fetch
from mm1_mlx.tiny.looks import LOOKS
from mm1_mlx.tiny.making import make_scene
from mm1_mlx.tiny.outside import HELD_OUT, TRAINED, draw_outside_picture
from mm1_mlx.tiny.stock import SHIPPED, Stock, pictogram_classes

HOME = Path(tiny.__file__).with_name("pictograms")


def test_there_are_enough_classes_and_their_names_are_clean():
    assert len(pictogram_classes("named")) >= 300 and len(pictogram_classes("held-out")) == 100
    names = [c.name for c in pictogram_classes()]
    assert len(set(names)) == len(names) == len({c.code for c in pictogram_classes()})
    assert all(1 <= len(name.split()) <= 3 and name == name.lower() and name.isascii() for name in names)


def test_forty_pictures_of_classes_kept_for_tests_are_shipped_with_their_licence():
    pictures = sorted(HOME.glob("*.png"))
    kept = {c.code for c in pictogram_classes("held-out")}
    assert len(pictures) == 40 and {path.stem for path in pictures} <= kept
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (72, 72)
    assert "Apache License" in (HOME / "LICENSE").read_text() and "Noto" in (HOME / "NOTICE").read_text()
    assert sum(path.stat().st_size for path in HOME.iterdir()) < 400_000


def test_what_is_shipped_is_never_trained_on():
    assert not SHIPPED.classes("named") and not SHIPPED.classes("unnamed")
    kinds = {thing.kind for seed in range(60) for thing in make_scene(seed).things}
    assert "pictogram" not in kinds


def test_scenes_show_shipped_pictograms_where_they_are_asked_for():
    for seed in range(10):
        scene = make_scene(seed, LOOKS["pictograms"], split="held-out")
        assert scene.things and all(thing.kind == "pictogram" for thing in scene.things)


@pytest.fixture
def package(monkeypatch):
    """One set as the registry would send it, with a single class."""
    code, icons = (
        "1f436",
        {"icons": {"dog-face": {"body": '<rect width="9" height="9" fill="red"/>'}}, "width": 9, "height": 9},
    )
    files = {"package/icons.json": json.dumps(icons), "package/chars.json": json.dumps({code: "dog-face"})}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    data = packed.getvalue()
    checksum = base64.b64encode(hashlib.sha512(data).digest()).decode()
    monkeypatch.setattr(fetching, "PACKAGES", {"noto": Package("noto.tgz", checksum, "free")})
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(data)

    monkeypatch.setattr(fetching.urllib.request, "urlopen", answer)
    return asked


def test_sets_are_fetched_once_and_drawn(package, tmp_path):
    pytest.importorskip("resvg_py")
    told = []
    fetch(tmp_path, report=told.append)
    fetch(tmp_path, report=told.append)
    assert len(package) == len(told) == 1
    stock = Stock.of_folder(tmp_path, ("noto",))
    (dog,) = stock.classes("named")
    assert dog.name == "dog" and stock.picture("noto", dog.code).getpixel((5, 5)) == (255, 0, 0, 255)
    assert make_scene(1, LOOKS["pictograms"], stock=stock).things[0].text == "dog"


def test_what_has_another_checksum_is_not_used(package, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "PACKAGES", {"noto": Package("noto.tgz", "A" * 88, "free")})
    with pytest.raises(DataError, match="checksum"):
        fetch(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_registry_that_does_not_answer_is_told(monkeypatch, tmp_path):
    def answer(url, timeout):
        raise TimeoutError("timed out")

    monkeypatch.setattr(fetching.urllib.request, "urlopen", answer)
    with pytest.raises(DataError, match=r"cannot be fetched \(timed out\)"):
        fetch(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_sets_is_told(tmp_path):
    with pytest.raises(DataError, match=r"has no noto\.zip"):
        Stock.of_folder(tmp_path)


def test_photographs_come_from_the_folder(tmp_path):
    packed = io.BytesIO()
    Image.new("RGB", (200, 150), "teal").save(packed, "PNG")
    with zipfile.ZipFile(tmp_path / "photographs.zip", "w") as archive:
        archive.writestr("training/one.png", packed.getvalue())
    stock = Stock(tmp_path)
    assert len(stock.photographs(held_out=False)) == 1 and not stock.photographs(held_out=True)
    colors = [draw_outside_picture(seed, stock=stock).getpixel((60, 60)) for seed in range(30)]
    assert (0, 128, 128) in colors


def test_pictures_from_outside_follow_from_their_seed_and_tests_have_kinds_of_their_own():
    assert set(TRAINED).isdisjoint(HELD_OUT) and len(TRAINED) >= 6 and len(HELD_OUT) >= 4
    for held_out in (False, True):
        pictures = [draw_outside_picture(seed, held_out=held_out) for seed in range(25)]
        assert len({picture.tobytes() for picture in pictures}) == 25
        assert draw_outside_picture(3, held_out=held_out).tobytes() == pictures[3].tobytes()
        assert {picture.size for picture in pictures} == {(126, 126)}


def test_every_package_names_its_licence_and_checksum():
    assert all(package.license and len(package.sha512) == 88 for package in PACKAGES.values())
