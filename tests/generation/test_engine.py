"""Requests come, end and are cancelled while others are being written; each answer is the one given alone."""

from collections import defaultdict
from contextlib import closing

import pytest

from mm1_mlx import generate, tiny
from mm1_mlx.errors import PictureError, SamplingError
from mm1_mlx.generation import Decoding, Engine, Request
from mm1_mlx.generation.answering import Answering
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.reading import read

QUESTION = "Describe the picture."


@pytest.fixture(scope="module")
def pictures():
    return [tiny.render(tiny.make_scene(tiny.TESTING_SEEDS + seed)) for seed in range(3)]


@pytest.fixture
def engine(mm1_tiny):
    with closing(Engine(*mm1_tiny, Decoding(max_tokens=12), batch_size=2)) as engine:
        yield engine


def finish(engine):
    """Texts by id, once nothing is left to do."""
    texts = defaultdict(str)
    while engine.num_waiting or engine.num_running:
        for event in engine.step():
            texts[event.id] += event.piece.text
    return texts


def test_a_request_may_come_while_others_are_written(engine, mm1_tiny, pictures):
    requests = [Request(QUESTION, [picture]) for picture in pictures]
    first = engine.add(requests[0])
    texts = defaultdict(str)
    for _ in range(3):
        for event in engine.step():
            texts[event.id] += event.piece.text
    others = [engine.add(request) for request in requests[1:]]
    for id, text in finish(engine).items():
        texts[id] += text
    for id, request in zip([first, *others], requests, strict=True):
        assert texts[id] == generate(*mm1_tiny, QUESTION, images=request.images, max_tokens=12)


def test_no_more_are_written_together_than_the_batch_holds(engine, pictures):
    for picture in pictures:
        engine.add(Request(QUESTION, [picture]))
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (2, 1)


def test_each_step_writes_one_token_of_every_answer(engine, pictures):
    ids = [engine.add(Request(QUESTION, [picture])) for picture in pictures[:2]]
    for number in range(1, 4):
        events = engine.step()
        assert sorted(event.id for event in events) == ids
        assert {event.piece.timing.generation_tokens for event in events} == {number}


@pytest.mark.parametrize(
    "template", ["chat", "plain"]
)  # plain: a picture ends the prompt, so it is written alone
def test_a_request_that_is_cancelled_gives_room_and_the_rest_goes_on(engine, mm1_tiny, pictures, template):
    gone = engine.add(Request("Look at <image>", pictures[:1], template=template))
    ids = [engine.add(Request(QUESTION, [picture])) for picture in pictures[1:]]
    waiting = engine.add(Request(QUESTION))
    engine.step()
    engine.cancel(gone)
    engine.cancel(waiting)
    texts = finish(engine)
    assert gone not in texts and waiting not in texts
    for id, picture in zip(ids, pictures[1:], strict=True):
        assert generate(*mm1_tiny, QUESTION, images=[picture], max_tokens=12).endswith(texts[id])


def test_cancelling_what_has_ended_is_no_matter(engine):
    id = engine.add(Request("Hello."))
    finish(engine)
    engine.cancel(id)
    engine.cancel(99)
    assert engine.step() == []


def test_what_is_wrong_with_a_request_is_an_event_of_its_own(engine, mm1_tiny):
    bad, good = engine.add(Request("What is it?", [b"none"])), engine.add(Request("Hello."))
    events = engine.step()
    assert [(event.id, type(event.error)) for event in events] == [(bad, PictureError), (good, type(None))]
    assert events[1].piece.text + finish(engine)[good] == generate(*mm1_tiny, "Hello.", max_tokens=12)


def test_stops_of_the_engine_and_of_the_request_both_end_an_answer(mm1_tiny, pictures):
    whole = generate(*mm1_tiny, QUESTION, images=pictures[:1])
    with closing(Engine(*mm1_tiny, Decoding(stop=(whole[8:11],)))) as engine:
        engine.add(Request(QUESTION, pictures[:1]))
        engine.add(Request(QUESTION, pictures[:1], stop=(whole[3:6],)))
        assert list(finish(engine).values()) == [
            whole[: whole.index(whole[8:11])],
            whole[: whole.index(whole[3:6])],
        ]


def test_the_time_to_the_first_token_counts_from_the_request(engine, pictures):
    engine.add(Request(QUESTION, pictures[:1]))
    timing = engine.step()[0].piece.timing
    assert 0 < timing.preprocess + timing.encoder + timing.connector + timing.prefill < timing.first_token
    assert timing.peak_memory > 0


@pytest.mark.parametrize("settings", [{"kv_bits": 8}, {"max_kv_size": 64}])
def test_caches_that_mlx_lm_cannot_batch_are_refused(mm1_tiny, settings):
    with pytest.raises(SamplingError, match="they exclude `max_kv_size` and `kv_bits`"):
        Engine(*mm1_tiny, Decoding(**settings))


def test_an_engine_goes_on_from_what_was_read_before_and_leaves_it_as_it_is(mm1_tiny, pictures):
    """Worked examples read once serve any number of engines."""
    model, processor = mm1_tiny
    shot = "<image>Question: What is it? Short answer: a red star\n"
    requests = [Request(f"{shot}<image>Question: What color is it? Short answer:", [pictures[0], other], template="plain")
                for other in pictures[1:]]  # fmt: skip
    prefix, answering = Prefix(model), Answering(requests[0], processor)
    read(model, prefix, answering, answering.inputs.image_places[-1].start, Decoding(), None)
    held = list(prefix.content)
    for _ in range(2):
        with closing(Engine(model, processor, Decoding(max_tokens=6), prefix=prefix)) as engine:
            texts, prefilled = defaultdict(str), {}
            ids = [engine.add(request) for request in requests]
            while engine.num_waiting or engine.num_running:
                for event in engine.step():
                    texts[event.id] += event.piece.text
                    prefilled[event.id] = event.piece.timing.prefilled_tokens
        assert [texts[id] for id in ids] == [
            generate(model, processor, r.prompt, images=r.images, template="plain", max_tokens=6)
            for r in requests
        ]
        assert all(count < len(answering.content) - len(held) + 2 for count in prefilled.values())
        assert prefix.content == held
