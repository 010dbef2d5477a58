"""Documents, names and styles: what training learns from shots, and what is kept to measure it."""

import random
import re
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_mlx.inputs.prompt import IMAGE
from mm1_mlx.tiny.captioning import CLEAN, Style, pick_style, write_in_style
from mm1_mlx.tiny.concepts import EXEMPLARS, draw_exemplar, list_concepts, make_exemplar, pick_concepts
from mm1_mlx.tiny.conversing import TALKS, teach_names_in_one_prompt, teach_names_in_turns
from mm1_mlx.tiny.documents import RULES, pick_name_order, write_copies, write_names
from mm1_mlx.tiny.inventing import invent_names, is_name_held_out
from mm1_mlx.tiny.making import make_scene
from mm1_mlx.tiny.stock import SHIPPED
from mm1_mlx.tiny.telling import OUTSIDE
from mm1_mlx.tiny.texts import copy_pattern

SEEDS = st.integers(0, 1 << 39)


@given(SEEDS, st.integers(1, 8), st.booleans())
@settings(max_examples=60)
def test_names_are_new_words_that_differ_from_their_beginning(seed, number, held_out):
    names = invent_names(number, random.Random(seed), held_out=held_out)
    assert len({name[:2] for name in names}) == number
    assert all(is_name_held_out(name) == held_out for name in names)


def test_documents_hardly_ever_share_a_name():
    names = [tuple(invent_names(2, random.Random(seed))) for seed in range(500)]
    assert len(set(names)) == 500
    assert Counter(name for pair in names for name in pair).most_common(1)[0][1] <= 6


@given(st.integers(2, 4), st.integers(0, 12), SEEDS)
@settings(max_examples=60)
def test_every_class_is_shown_before_a_name_must_be_known(ways, more, seed):
    order = pick_name_order(ways, ways + more, random.Random(seed))
    assert set(order[:ways]) == set(range(ways)) and len(order) == ways + more


def test_in_a_naming_document_a_name_stands_for_one_class():
    for seed in range(40):
        page = write_names(random.Random(seed), SHIPPED, captioned=1.0)
        told = [text for text in page.text.split(IMAGE) if text.strip()]
        pairs = {tuple(sorted(re.findall(r"[a-z]+", text.lower()))) for text in told}
        assert 2 <= len(pairs) <= 4, told
        assert len(told) == len(page.pictures)


def test_copies_say_the_same_of_the_same_picture():
    for seed in range(15):
        page = write_copies(random.Random(seed), SHIPPED)
        told = {}
        for picture, text in zip(page.pictures, page.text.split(IMAGE)[1:], strict=True):
            assert told.setdefault(picture.tobytes(), text) == text
        assert len(told) < len(page.pictures)


@pytest.mark.parametrize("family", ["colored shape", "pictogram"])
def test_classes_for_tests_are_none_of_training(family):
    trained, kept = (set(list_concepts(family, SHIPPED, held_out=held_out)) for held_out in (False, True))
    assert kept and trained.isdisjoint(kept)
    drawn = [c for seed in range(100) for c in pick_concepts(2, random.Random(seed))]
    assert kept.isdisjoint(drawn)


@pytest.mark.parametrize("family", ["colored shape", "shape", "color", "letter", "digit"])
def test_an_exemplar_shows_its_concept_and_nothing_else(family):
    for concept in islice(list_concepts(family), 12):
        for number in range(3):
            (thing,) = make_exemplar(concept, number).things
            assert concept.color in ("", thing.color)
            assert concept.shape in ("", thing.kind)
            assert concept.text in ("", thing.text)


def test_pictures_of_training_come_again_and_those_of_tests_do_not():
    concept = list_concepts("shape")[0]
    assert draw_exemplar(concept, 3) is draw_exemplar(concept, 3)
    trained = {draw_exemplar(concept, number).tobytes() for number in range(EXEMPLARS)}
    assert len(trained) == EXEMPLARS
    assert make_exemplar(concept, 3, test=True) not in [
        make_exemplar(concept, number) for number in range(EXEMPLARS)
    ]


def test_a_style_holds_what_it_chooses():
    scene = make_scene(5)
    assert write_in_style(scene, CLEAN).endswith(".")
    style = Style(items="plain", joint=" + ", last=" + ", before="> ", behind="!", case="upper")
    text = write_in_style(scene, style)
    assert text.startswith("> ") and text.endswith("!") and text == text.upper()


def test_styles_for_tests_are_none_of_training():
    trained = {pick_style(random.Random(seed)) for seed in range(400)}
    kept = {pick_style(random.Random(seed), held_out=True) for seed in range(400)}
    assert len(trained) > 300 and len(kept) > 300 and trained.isdisjoint(kept)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_writes_documents_that_differ(rule):
    texts = {RULES[rule].write(random.Random(seed), SHIPPED).text for seed in range(8)}
    assert len(texts) >= 7


def test_copied_text_repeats_what_it_began_with():
    for seed in range(20):
        text = copy_pattern(random.Random(seed), SHIPPED)
        assert text[:6] in text[6:]


@pytest.mark.parametrize("kind", TALKS)
def test_a_conversation_has_a_place_for_each_picture(kind):
    for seed in range(10):
        talk = TALKS[kind].write(random.Random(seed), SHIPPED)
        assert talk.turns and all(answer.strip() for _, answer in talk.turns)
        assert sum(question.count(IMAGE) for question, _ in talk.turns) == len(talk.pictures)
        assert not any(IMAGE in answer for _, answer in talk.turns)


def test_pictures_from_outside_are_always_refused():
    for seed in range(10):
        assert {answer for _, answer in TALKS["refusals"].write(random.Random(seed), SHIPPED).turns} == {
            OUTSIDE
        }


@pytest.mark.parametrize("teach", [teach_names_in_turns, teach_names_in_one_prompt])
def test_a_name_that_is_asked_for_was_told_before(teach):
    for seed in range(20):
        talk = teach(random.Random(seed), SHIPPED)
        *told, asked = re.findall(r"\b[a-z]{3,}\b", talk.turns[-1][0] + " " + talk.turns[-1][1].lower())
        before = " ".join(answer.lower() for _, answer in talk.turns[:-1]) + " ".join(told)
        if teach is teach_names_in_one_prompt:
            assert asked in before
