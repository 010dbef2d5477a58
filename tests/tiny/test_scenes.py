"""Scenes of the wider tiny world: from seeds alone, and such that everything in them can be seen and told."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from mm1_mlx.tiny.colors import COLORS, CONTRAST, SHADES, distance, is_visible_on, mix_paint, name_color
from mm1_mlx.tiny.dense import COLOR_LABELS, KIND_LABELS, dense_labels, dense_words
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.looks import ANY, LOOKS
from mm1_mlx.tiny.making import (
    OVERLAP,
    cover_with_circles,
    make_empty_scene,
    make_scene,
    measure_extent,
    measure_overlap,
)
from mm1_mlx.tiny.scene import PLACES
from mm1_mlx.tiny.shapes import SHAPES, find_corners
from mm1_mlx.tiny.world import TESTING_SEEDS

SEEDS = st.integers(0, TESTING_SEEDS - 1)
NAMES = st.sampled_from(sorted(set(LOOKS) - {"pictograms"}))


@given(SEEDS, NAMES)
@settings(max_examples=40)
def test_a_scene_follows_from_its_seed(seed, look):
    scene = make_scene(seed, LOOKS[look])
    assert scene == make_scene(seed, LOOKS[look])
    assert draw_scene(scene).tobytes() == draw_scene(scene).tobytes()


@given(SEEDS, NAMES)
@settings(max_examples=60)
def test_everything_lies_within_the_picture(seed, look):
    scene = make_scene(seed, LOOKS[look])
    for thing in scene.things:
        left, top, right, bottom = measure_extent(thing)
        assert thing.x + left >= 0 and thing.x + right <= scene.width
        assert thing.y + top >= 0 and thing.y + bottom <= scene.height


@given(SEEDS, NAMES)
@settings(max_examples=60)
def test_things_overlap_by_a_third_at_most_and_stand_out_from_each_other_there(seed, look):
    for one, other in combinations(make_scene(seed, LOOKS[look]).things, 2):
        near = any(
            math.hypot(x - u, y - v) < r + s
            for x, y, r in cover_with_circles(one)
            for u, v, s in cover_with_circles(other)
        )
        if near:
            assert measure_overlap(one, other) <= max(OVERLAP, 1 / 3)
            assert distance(one.paint, other.paint) >= CONTRAST


@given(SEEDS, NAMES)
@settings(max_examples=60)
def test_things_stand_out_against_the_background(seed, look):
    scene = make_scene(seed, LOOKS[look])
    assert all(
        is_visible_on(thing.paint, scene.background.palette, CONTRAST)
        for thing in scene.things
        if thing.color
    )


@pytest.mark.parametrize("look", ["plain", "dark", "outlined", "tiny", "rotated"])
def test_each_thing_can_be_seen_in_the_picture(look):
    """Without it the picture is another one, by a good part of its area, and in a paint like its own."""
    for seed in range(15):
        scene = make_scene(seed, LOOKS[look])
        whole = draw_scene(scene)
        for thing in scene.things:
            others = tuple(t for t in scene.things if t is not thing)
            without = draw_scene(type(scene)(others, scene.background, scene.width, scene.height))
            changed = np.asarray(ImageChops.difference(whole, without)).max(axis=-1) > 24
            assert changed.sum() >= 12, (seed, thing)


@given(st.sampled_from(COLORS), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_a_paint_is_called_by_its_colour(color, rng):
    assert name_color(mix_paint(color, rng)) == color


def test_shades_of_different_colours_can_be_told_apart():
    for one, other in combinations(COLORS, 2):
        assert min(distance(a, b) for a in SHADES[one] for b in SHADES[other]) > 25, (one, other)


def test_a_turned_square_is_no_diamond():
    """At every angle a square's diagonals are equal, and a diamond's are not."""
    for seed in range(150):
        for thing in make_scene(seed, LOOKS["rotated"]).things:
            if thing.kind in ("square", "diamond"):
                a, b, c, d = find_corners(thing.kind, thing.form, thing.angle)
                ratio = math.dist(a, c) / math.dist(b, d)
                assert (abs(ratio - 1) < 1e-6) == (thing.kind == "square")
                assert thing.kind == "square" or ratio > 1.3


@pytest.mark.parametrize(
    ("look", "holds"),
    [
        ("dark", lambda scene: scene.background.tone in ("dark", "black")),
        ("textured", lambda scene: scene.background.texture not in ("plain", "gradient", "radial")),
        ("outlined", lambda scene: all(t.stroke for t in scene.things)),
        ("wide", lambda scene: min(scene.width, scene.height) <= 0.5),
        ("tiny", lambda scene: all(0.079 <= t.size <= 0.121 for t in scene.things)),
        ("plain", lambda scene: scene.width == scene.height == 1 and not any(t.stroke for t in scene.things)),
    ],
)
def test_a_look_is_what_it_says(look, holds):
    assert all(holds(make_scene(seed, LOOKS[look])) for seed in range(60))


def test_any_look_has_the_whole_range():
    scenes = [make_scene(seed, ANY) for seed in range(300)]
    things = [t for scene in scenes for t in scene.things]
    assert {len(scene.things) for scene in scenes} == set(range(1, 9))
    assert {t.kind for t in things} == {*SHAPES, "letter", "digit"}
    assert {t.color for t in things} == set(COLORS)
    assert min(t.size for t in things) < 0.1 and max(t.size for t in things) > 0.75
    assert min(min(scene.width, scene.height) for scene in scenes) < 0.3
    strokes = [t.stroke for t in things if t.stroke]
    assert min(strokes) < 2 / 126 and max(strokes) > 5 / 126


def test_an_empty_scene_has_nothing_in_it():
    for seed in range(20):
        scene = make_empty_scene(seed)
        assert not scene.things
        assert draw_scene(scene, 64).size == tuple(round(64 * side) for side in (scene.width, scene.height))


@given(SEEDS)
@settings(max_examples=40)
def test_dense_labels_tell_each_thing_at_its_centre(seed):
    scene = make_scene(seed, LOOKS["shapes"])
    labels = dense_labels(scene, 18).reshape(3, 18, 18)
    smallest = min(scene.things, key=lambda t: t.size)
    x, y = smallest.x + (1 - scene.width) / 2, smallest.y + (1 - scene.height) / 2
    row, column = int(18 * y), int(18 * x)
    near = labels[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].reshape(3, -1)
    assert KIND_LABELS.index(smallest.kind) in near[0]
    assert COLOR_LABELS.index(smallest.color) in near[1]


def test_dense_words_name_every_thing_once():
    for seed in range(30):
        scene = make_scene(seed, LOOKS["shapes"])
        words = [word for cell in dense_words(scene) for word in cell]
        assert sum(word in SHAPES for word in words) == len(scene.things)


def test_a_place_is_told_only_where_it_is_plain():
    told = [scene.place(t) for scene in map(make_scene, range(200)) for t in scene.things]
    assert None in told
    assert {place for place in told if place} == set(PLACES)


def test_pictures_differ_in_size_alone_when_drawn_larger():
    scene = next(
        s
        for s in map(make_scene, range(99))
        if not (s.finish.blur or s.finish.noise or s.finish.quality) and s.background.texture == "plain"
    )
    large = draw_scene(scene, 504).resize(draw_scene(scene).size, Image.Resampling.BOX)
    apart = ImageChops.difference(large, draw_scene(scene)).convert("L")
    assert np.asarray(apart).mean() < 4
