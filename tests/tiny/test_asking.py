"""Questions about scenes: answers agree with what is shown, wordings for tests are not those of training."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_mlx.tiny.asking import KINDS, Question, ask, pick_things_to_count
from mm1_mlx.tiny.colors import COLORS
from mm1_mlx.tiny.comparing import PAIR_KINDS as PAIR_KINDS
from mm1_mlx.tiny.comparing import compare
from mm1_mlx.tiny.judging import count_named_things, is_right, simplify
from mm1_mlx.tiny.looks import ANY, LOOKS
from mm1_mlx.tiny.making import make_empty_scene, make_scene
from mm1_mlx.tiny.nouns import add_article, list_unknown_nouns, make_plural
from mm1_mlx.tiny.stock import pictogram_classes
from mm1_mlx.tiny.telling import caption, detailed_caption, phrase
from mm1_mlx.tiny.varying import vary
from mm1_mlx.tiny.wordings import BRACKETS, FORMS, count_forms, list_forms, pick_form

SEEDS = st.integers(0, 1 << 39)
MAIN = ("color", "shape", "existence", "count", "size", "place", "symbol", "word", "caption", "region")


def scene_for(kind, seed):
    return make_scene(seed, LOOKS["words"] if kind == "word" else LOOKS["counting"] if seed % 2 else ANY)


@given(SEEDS)
@settings(max_examples=80)
def test_a_caption_names_every_thing_and_no_other(seed):
    scene = make_scene(seed)
    shown = Counter(phrase(thing).lower() for thing in scene.things)
    assert count_named_things(caption(scene)) == shown
    assert count_named_things(detailed_caption(scene)) == shown


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_is_judged_right_and_another_wrong(kind):
    asked = [ask(kind, scene_for(kind, seed), random.Random(seed)) for seed in range(60)]
    asked = [question for question in asked if question]
    assert len(asked) >= 3
    for question in asked:
        assert is_right(question, question.answer) and is_right(question, question.answer.upper())
        assert all(is_right(question, other) for other in question.also)
        assert not is_right(question, "something else") and not is_right(question, "")


def test_words_for_a_thing_mean_it_alone():
    """A question for a colour that names a thing gets that thing's colour, checked by reading the question again."""
    for seed in range(150):
        scene = make_scene(seed, LOOKS["shapes"])
        question = ask("color", scene, random.Random(seed), errors=False)
        if question is None or not re.search(
            r"circle|square|triangle|star|diamond|cross", question.text.lower()
        ):
            continue
        meant = [
            t
            for t in scene.things
            if t.kind in question.text.lower()
            and (t.size_word in question.text.lower() or not re.search("small|large", question.text.lower()))
        ]
        if meant:  # else another word stands for it
            assert {t.color for t in meant} == {question.answer}, question


def test_counts_are_those_of_the_things_meant():
    for seed in range(200):
        scene = make_scene(seed, LOOKS["counting"])
        counted = pick_things_to_count(scene, random.Random(seed))
        if counted is None:
            continue
        words, things = counted
        kinds = [k for k in ("circle", "square", "triangle", "star", "diamond", "letter") if k in words]
        colors = {color for color in COLORS if color in words}
        for thing in scene.things:
            if kinds and thing.kind in kinds and (not colors or thing.color in colors):
                assert thing in things, (words, thing)


@pytest.mark.parametrize("kind", ["existence", "absent"])
def test_what_is_not_there_is_not_shown(kind):
    for seed in range(200):
        scene = make_scene(seed)
        question = ask(kind, scene, random.Random(seed), errors=False)
        noun = question.answer.removeprefix("There is no ").rstrip(".") if kind == "absent" else ""
        shown = {words for t in scene.things for words in (t.noun, t.kind, phrase(t))}
        assert noun not in shown


def test_yes_and_no_are_about_as_frequent():
    scenes = [make_scene(seed) for seed in range(250)]
    for kind in ("existence", "relation", "check"):
        asked = [ask(kind, scene, random.Random(seed)) for seed, scene in enumerate(scenes)]
        answers = Counter(question.answer for question in asked if question)
        assert 0.35 < answers["yes"] / sum(answers.values()) < 0.65, kind


def test_an_empty_scene_is_told_to_be_empty():
    scene, rng = make_empty_scene(3), random.Random(0)
    assert ask("caption", scene, rng).answer == "There is nothing in the picture."
    assert ask("count_all", scene, rng).answer == "0"
    assert ask("existence", scene, rng).answer == ask("anything", scene, rng).answer == "no"


@pytest.mark.parametrize("kind", MAIN)
def test_a_question_has_forty_wordings(kind):
    rng = random.Random(0)
    assert len({vary(pick_form(kind, rng), rng, errors=False).lower() for _ in range(400)}) >= 40
    assert count_forms(kind) >= 30


def test_wordings_for_tests_are_none_of_training(subtests):
    def written(kind, held_out):
        rng = random.Random(0)
        return {pick_form(kind, rng, held_out=held_out).lower() for _ in range(1500)}

    for kind in FORMS:
        with subtests.test(msg=kind):
            kept, trained = written(kind, True), written(kind, False)
            assert list_forms(kind, held_out=True)
            assert kept.isdisjoint(trained)
            assert not any(BRACKETS.search(text) for text in kept | trained)


def test_nouns_for_tests_are_none_of_training():
    trained, kept = list_unknown_nouns(held_out=False), list_unknown_nouns(held_out=True)
    assert len(trained) > 300 and len(kept) > 100
    assert set(trained).isdisjoint(kept)
    assert set(trained).isdisjoint(c.name for c in pictogram_classes("held-out"))
    assert set(kept).isdisjoint(c.name for c in pictogram_classes("named"))


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("Red.", "red"), ("three", "3"), ("gray", "grey"), ("A circle", "circle"), ("center", "middle"),
        ("at the upper left", "top left"), ("It is a dog.", "dog"), ("THE FIRST", "the first"),
    ],
)  # fmt: skip
def test_answers_are_compared_without_what_does_not_matter(given, right):
    assert simplify(given) == simplify(right)


def test_captions_are_compared_by_what_they_name():
    asked = Question("caption", "?", "Two red circles, a bow and arrow and a blue letter A.")
    assert is_right(asked, "a blue letter A, bow and arrow, and 2 red circles")
    assert is_right(asked, "A red circle, a red circle, a bow and arrow and a blue letter a")
    assert not is_right(asked, "A red circle, a bow and arrow and a blue letter A.")
    assert not is_right(asked, "Two red circles, a bow and arrow and a blue letter B.")


@pytest.mark.parametrize(
    ("noun", "many"),
    [("mouse", "mice"), ("cross", "crosses"), ("cherry blossom", "cherry blossoms"), ("pan flute", "pan flutes"),
     ("slice of cake", "slices of cake"), ("glasses", "glasses"), ("red battery", "red batteries"),
     ("thing", "things"), ("toy", "toys")],
)  # fmt: skip
def test_plurals(noun, many):
    assert make_plural(noun) == many


@pytest.mark.parametrize(
    ("noun", "one"), [("apple", "an apple"), ("unicorn", "a unicorn"), ("bread", "bread")]
)
def test_articles(noun, one):
    assert add_article(noun) == one


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_two_pictures_are_compared_as_they_are(kind):
    for seed in range(40):
        (first, second), question = compare(kind, seed)
        one, other = (Counter(map(phrase, scene.things)) for scene in (first, second))
        if kind == "same":
            assert (question.answer == "yes") == (one == other)
        elif kind == "more":
            assert (question.answer == "the first") == (one.total() > other.total())
        elif kind == "new":
            (new,) = other - one
            assert question.answer == add_article(new) and not one - other
        assert is_right(question, question.answer)


def test_typing_errors_are_rare_and_spare_what_is_kept():
    rng = random.Random(0)
    text = "Which number of triangles is there in this drawing"
    changed = sum(vary(text, rng).lower().split()[3:4] != ["triangles"] for _ in range(3000))
    assert 5 < changed < 300
    assert all("triangles" in vary(text, rng, keep=("triangles",)).lower() for _ in range(500))
