"""What the shipped mm1-tiny can do, measured on scenes of unseen seeds."""

import random
from pathlib import Path

import pytest
from answers import answer_all, encode_all

from mm1_mlx import generate, load, quantize, save, tiny

NUM_SCENES = 1000
# least share right, and the most that is right when another scene's picture is shown
BOUNDS = {"color": (0.95, 0.15), "shape": (0.95, 0.20), "count": (0.85, 0.40), "existence": (0.95, 0.60)}
# none of these stands in mm1_mlx/tiny/phrases.py
PARAPHRASES = {
    "color": (
        "The {n} has what color?",
        "What color is the {n} that you see?",
        "Which color do you see on the {n}?",
        "Name the color that the {n} has.",
        "What colour does the {n} in the image have?",
        "Please name the color of the {n} in the picture.",
    ),
    "shape": (
        "The {c} thing in the photo is what shape?",
        "Which {c} shape can you see?",
        "What {c} thing is shown?",
        "Tell me what shape the {c} object has.",
    ),
    "count": (
        "Say the number of things in the image.",
        "How many objects does this picture have?",
        "How many objects does the photo contain?",
        "Please tell me how many objects you see.",
    ),
    "existence": (
        "Can a {n} be found in the picture?",
        "Does the photo show any {n}?",
        "Tell me if you see a {n}.",
        "Is there a {n} to be seen?",
    ),
}


def test_the_paraphrases_are_none_of_the_training_templates():
    source = Path(tiny.__file__).with_name("phrases.py").read_text()
    assert not [text for texts in PARAPHRASES.values() for text in texts if f'"{text}"' in source]


@pytest.fixture(scope="module")
def world():
    """Unseen scenes, their pictures, and one question of each kind where the scene allows it."""
    scenes = [tiny.make_scene(tiny.TESTING_SEEDS + number) for number in range(NUM_SCENES)]
    pictures = [tiny.render(scene) for scene in scenes]
    questions = {kind: [] for kind in BOUNDS}
    for number, scene in enumerate(scenes):
        for kind in BOUNDS:
            question = tiny.make_question(scene, kind, random.Random(number))
            symbol = kind == "shape" and question and question.answer.startswith(("letter", "digit"))
            if question is not None and not symbol:
                questions[kind].append((number, question.text, question.answer))
    return scenes, pictures, questions


@pytest.fixture(scope="module")
def visual(mm1_tiny, world):
    """The visual tokens of the pictures, made once for all tests of the model as it is."""
    return encode_all(*mm1_tiny, world[1])


def share_right(model, processor, pictures, asked, *, shift=0, visual=None):
    prompts = [((number + shift) % len(pictures), text) for number, text, _ in asked]
    answers = answer_all(model, processor, pictures, prompts, visual=visual)
    return sum(a == right for a, (_, _, right) in zip(answers, asked, strict=True)) / len(asked)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOUNDS)
def test_questions_about_unseen_scenes_are_answered(kind, mm1_tiny, world, visual):
    _, pictures, questions = world
    assert share_right(*mm1_tiny, pictures, questions[kind], visual=visual) >= BOUNDS[kind][0]


@pytest.mark.slow
def test_one_to_five_objects_are_counted(mm1_tiny, world, visual):
    scenes, pictures, _ = world
    counts = [str(len(scene.things)) for scene in scenes]
    prompts = [(number, "How many objects are there?") for number in range(len(scenes))]
    answers = answer_all(*mm1_tiny, pictures, prompts, visual=visual)
    right = [answer == count for answer, count in zip(answers, counts, strict=True)]
    assert sum(right) >= 0.9 * len(right)
    for number in "12345":
        own = [hit for hit, count in zip(right, counts, strict=True) if count == number]
        assert sum(own) >= 0.85 * len(own), number


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOUNDS)
def test_another_scenes_picture_brings_the_answers_near_chance(kind, mm1_tiny, world, visual):
    _, pictures, questions = world
    assert share_right(*mm1_tiny, pictures, questions[kind], shift=500, visual=visual) <= BOUNDS[kind][1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARAPHRASES)
def test_other_words_for_the_same_question_work(kind, mm1_tiny, world, visual):
    scenes, pictures, _ = world
    asked = []
    for number, scene in enumerate(scenes[:300]):
        rng = random.Random(number)
        shapes = [t for t in scene.things if not t.symbol]
        unique = [t for t in shapes if sum(u.noun == t.noun for u in scene.things) == 1]
        alone = [t for t in shapes if sum(u.color == t.color for u in scene.things) == 1]
        text = rng.choice(PARAPHRASES[kind])
        if kind == "count":
            asked.append((number, text, str(len(scene.things))))
        elif kind == "existence":
            noun = rng.choice(("circle", "square", "triangle", "star", "diamond", "cross"))
            there = any(t.kind == noun for t in scene.things)
            asked.append((number, text.format(n=noun), "yes" if there else "no"))
        elif kind == "color" and unique:
            asked.append((number, text.format(n=unique[0].noun), unique[0].color))
        elif kind == "shape" and alone:
            asked.append((number, text.format(c=alone[0].color), alone[0].kind))
    assert share_right(*mm1_tiny, pictures, asked, visual=visual) >= 0.9


@pytest.mark.slow
def test_answers_in_batches_are_those_of_generate(mm1_tiny, world):
    _, pictures, questions = world
    asked = [row for kind in BOUNDS for row in questions[kind][:3]]
    together = answer_all(*mm1_tiny, pictures, [(number, text) for number, text, _ in asked])
    alone = [generate(*mm1_tiny, text, images=[pictures[number]], max_tokens=12) for number, text, _ in asked]
    assert together == alone


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_mm1_tiny_still_answers(bits, world, tiny_folder, tmp_path):
    _, pictures, questions = world
    save(quantize(load(tiny_folder)[0], bits=bits), tmp_path / "packed", companions=tiny_folder)
    model, processor = load(tmp_path / "packed")
    asked = [row for kind in BOUNDS for row in questions[kind][:25]]
    assert share_right(model, processor, pictures, asked) >= 0.9


def test_without_a_picture_it_says_so(mm1_tiny):
    assert generate(*mm1_tiny, "What color is the circle?") == "There is no picture."


def test_a_thing_that_is_not_there_is_not_invented(mm1_tiny, world):
    scenes, pictures, _ = world
    number = next(i for i, s in enumerate(scenes) if all(t.kind != "star" for t in s.things))
    assert generate(*mm1_tiny, "What color is the star?", images=[pictures[number]]) == "There is no star."


def test_a_system_message_and_a_place_at_the_end_change_no_answer(mm1_tiny):
    thing = next(
        s
        for s in map(tiny.make_scene, range(tiny.TESTING_SEEDS, tiny.TESTING_SEEDS + 99))
        if len(s.things) == 1
    )
    picture = tiny.render(thing)
    color = thing.things[0].color
    assert generate(*mm1_tiny, "What color is it?", images=[picture], system="Answer briefly.") == color
    assert generate(*mm1_tiny, "What color is it?<image>", images=[picture]) == color


def test_the_model_folder_fits_the_wheel():
    folder = Path(tiny.__file__).parent / "mm1-tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16e6
