"""Drawings, by the colours of their pixels."""

import numpy as np
import pytest
from PIL import Image

from mm1_mlx.errors import CheckpointError, PictureError
from mm1_mlx.seeing.draw import (
    LARGEST,
    PAPER,
    SMALLEST,
    THINNEST,
    Panel,
    draw_text,
    output_path,
    sheet,
    write_png,
)
from mm1_mlx.seeing.figures import spread

WHOLE = (0.0, 0.0, 20.0, 10.0)


def plain(width, height, color="#3060c0"):
    return Image.new("RGB", (width, height), color)


def colors(image):
    return {color for _, color in image.getcolors(2**24)}


@pytest.mark.parametrize(
    ("size", "shown"),
    [((20, 10), (SMALLEST, SMALLEST // 2)), ((800, 600), (800, 600)), ((4032, 3024), (LARGEST, 1200))],
)
def test_a_picture_is_drawn_at_a_size_to_look_at(size, shown):
    panel = Panel(plain(*size))
    assert panel.size == shown == panel.image.size
    assert colors(panel.image) == {(0x30, 0x60, 0xC0)}


@pytest.mark.parametrize(("size", "axis"), [((1, 3000), 0), ((2000, 20), 1)])
def test_a_thin_picture_is_widened_to_be_seen(size, axis):
    panel = Panel(plain(*size))
    assert panel.size[axis] == panel.size[1 - axis] // THINNEST
    assert colors(panel.image) == {(0x30, 0x60, 0xC0)}


def test_padding_is_striped_and_around_the_picture():
    panel = Panel(plain(400, 800), [(-200.0, 0.0, 600.0, 800.0)])
    pixels = np.asarray(panel.image)
    assert panel.pixels((0.0, 0.0, 400.0, 800.0)) == (200, 0, 600, 800)
    assert (pixels[:, 200:600] == (0x30, 0x60, 0xC0)).all()
    assert len(np.unique(pixels[:, :200])) == len(np.unique(pixels[:, 600:])) == 2


@pytest.mark.parametrize("dashed", [False, True])
def test_an_outline_runs_inside_its_box(dashed):
    panel = Panel(plain(700, 700, "#000000"))
    panel.outline((100.0, 200.0, 300.0, 400.0), "#ff0000", dashed=dashed)
    changed = np.argwhere(np.asarray(panel.image).any(axis=-1))
    assert changed.min(axis=0).tolist() == [200, 100] and changed.max(axis=0).tolist() == [399, 299]
    assert {(255, 0, 0), (255, 255, 255)} <= colors(panel.image)
    assert not np.asarray(panel.image)[220:380, 120:280].any()


@pytest.mark.parametrize("side", [2, 30, 90, 640])
def test_a_label_stays_on_the_panel_and_becomes_shorter_where_there_is_no_room(side):
    panel = Panel(plain(640, 640, "#000000"))
    panel.label((0.0, 0.0, float(side), float(side)), ("12 whole: 144 tokens", "12"), "#ff0000")
    changed = np.argwhere(np.asarray(panel.image).any(axis=-1))
    height, width = np.ptp(changed, axis=0) + 1
    assert 15 <= height <= 40 and width < (60 if side < 200 else 300)


def test_what_is_seen_keeps_its_colour_and_the_rest_becomes_pale():
    panel = Panel(plain(640, 640, "#000000"))
    panel.fade([(100.0, 100.0, 300.0, 300.0)])
    pixels = np.asarray(panel.image)
    assert not pixels[100:300, 100:300].any() and pixels[:100].min() > 128


def test_heat_adds_up_and_is_thickest_where_there_is_most():
    panel = Panel(plain(640, 640, "#ffffff"))
    panel.heat([((0.0, 0.0, 64.0, 640.0), 1.0), ((0.0, 0.0, 640.0, 64.0), 1.0)])
    dark = 255 - np.asarray(panel.image.convert("L")).astype(int)
    assert dark[10, 10] > dark[10, 300] == dark[300, 10] > dark[300, 300] == 0


def test_panels_may_share_a_scale_of_colours():
    weak, alone, strong = (Panel(plain(640, 640, "#ffffff")) for _ in range(3))
    weak.heat([((0.0, 0.0, 64.0, 64.0), 1.0)], 4.0)
    alone.heat([((0.0, 0.0, 64.0, 64.0), 1.0)])
    strong.heat([((0.0, 0.0, 64.0, 64.0), 4.0)], 4.0)
    darkest = [int(np.asarray(panel.image.convert("L")).min()) for panel in (weak, alone, strong)]
    assert darkest[0] > darkest[1] == darkest[2]


def test_no_heat_at_all_is_a_grey_picture():
    panel = Panel(plain(640, 640))
    panel.heat([(WHOLE, 0.0)])
    assert all(red == green == blue for red, green, blue in colors(panel.image))


def test_weight_is_spread_by_area():
    boxes = [WHOLE, (20.0, 0.0, 40.0, 30.0)]
    found = spread(boxes, 2.0)
    assert [box for box, _ in found] == boxes
    assert sum((box[2] - box[0]) * (box[3] - box[1]) * value for box, value in found) == pytest.approx(2)
    assert spread([], 1.0) == []


def test_long_text_is_wrapped():
    image = draw_text("many words that do not fit " * 4, width=200)
    assert image.width <= 200 and image.height > 4 * 16
    assert draw_text("x").height < 30


def test_a_sheet_has_rows_of_equal_cells():
    page = sheet([plain(10, 20), plain(30, 10), plain(5, 5)], 2, gap=4)
    assert page.size == (64, 44)
    assert page.getpixel((34, 0)) == page.getpixel((0, 24)) == (0x30, 0x60, 0xC0)
    assert page.getpixel((20, 0)) == (255, 255, 255) == tuple(bytes.fromhex(PAPER[1:]))


def test_a_png_is_written_whole_and_nothing_beside_it(tmp_path):
    write_png(plain(3, 2), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        assert written.size == (3, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(CheckpointError, match=r"a\.png is a folder"):
        write_png(plain(3, 2), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos/cat.jpeg", "cat-tokens.png"),
        ("-", "picture-tokens.png"),
        ("data:x;base64,", "picture-tokens.png"),
    ],
)
def test_a_drawing_is_named_after_the_picture(source, name):
    assert str(output_path(None, source, "tokens")) == name


def test_a_drawing_never_replaces_the_picture(tmp_path):
    plain(3, 2).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match="is the picture itself"):
        output_path(str(tmp_path / "a.png"), str(tmp_path / "a.png"), "tokens")


@pytest.mark.parametrize(
    ("output", "words"),
    [("a.jpg", r"ends in \.png"), ("", r"ends in \.png"), ("no/where/a.png", "no folder no/where")],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(output, words):
    with pytest.raises(PictureError, match=words):
        output_path(output, "cat.jpg", "tokens")
