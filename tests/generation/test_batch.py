"""Many prompts together: the answers of one by one, for less work."""

import io
import time

import pytest

from mm1_mlx import tiny
from mm1_mlx.errors import SamplingError
from mm1_mlx.generation import Request, batch_generate, stream_batch, stream_generate
from mm1_mlx.inputs.few_shot import STOP, Shot, few_shot
from mm1_mlx.settings import Sampling

QUESTION = "What color is the circle?"


def png(seed):
    file = io.BytesIO()
    tiny.render(tiny.make_scene(tiny.TESTING_SEEDS + seed)).save(file, "PNG")
    return file.getvalue()


PICTURES = [png(seed) for seed in range(4)]


def one_by_one(mm1_tiny, requests, **options):
    """Texts, and the last piece's timing of each."""
    texts, timings = [], []
    for request in requests:
        pieces = list(
            stream_generate(
                *mm1_tiny,
                request.prompt,
                images=request.images,
                system=request.system,
                template=request.template,
                stop=request.stop,
                **options,
            )
        )
        texts.append("".join(piece.text for piece in pieces))
        timings.append(pieces[-1].timing)
    return texts, timings


def with_shots(num_shots, num_questions):
    shots = [Shot(image=png(seed), question=QUESTION, answer="red") for seed in range(num_shots)]
    queries = [Shot(image=png(100 + seed), question=QUESTION) for seed in range(num_questions)]
    prompts = [few_shot(shots, query) for query in queries]
    return [Request(p.text, p.images, template="plain", stop=STOP[p.kind]) for p in prompts]


MIXED = [
    Request("What is it?", PICTURES[:1]),
    Request("<image>Compare <image> with it.", PICTURES[:2]),
    Request("Hello."),
    Request("Describe the picture.", PICTURES[2:3], system="Be brief."),
    Request("How many objects are there?", PICTURES[3:]),
    Request("<image>\nA photo of", PICTURES[:1], template="plain"),
]


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_answers_are_those_of_one_by_one(mm1_tiny, batch_size):
    answers = batch_generate(*mm1_tiny, MIXED, max_tokens=12, batch_size=batch_size)
    assert [answer.text for answer in answers] == one_by_one(mm1_tiny, MIXED, max_tokens=12)[0]
    assert [answer.number for answer in answers] == list(range(len(MIXED)))


def test_a_prompt_that_ends_with_its_picture_is_answered(mm1_tiny):
    requests = [Request("Look at <image>", PICTURES[:1], template="plain"), MIXED[0]]
    answers = batch_generate(*mm1_tiny, requests, max_tokens=6)
    assert [answer.text for answer in answers] == one_by_one(mm1_tiny, requests, max_tokens=6)[0]


def test_answers_come_as_they_finish(mm1_tiny):
    requests = [Request("Describe the picture.", PICTURES[:1]), Request(QUESTION, PICTURES[1:2])]
    numbers = [answer.number for answer in stream_batch(*mm1_tiny, requests)]
    assert numbers == [1, 0]


def test_a_bad_picture_gives_an_error_and_the_rest_goes_on(mm1_tiny):
    broken = PICTURES[1][:200]  # its header is whole: the damage shows when it is decoded
    requests = [MIXED[0], Request("What is it?", [b"none"]), Request("What is it?", [broken]), MIXED[2]]
    answers = batch_generate(*mm1_tiny, requests, max_tokens=4)
    assert [answer.finish_reason == "error" for answer in answers] == [False, True, True, False]
    assert "not a picture of a known kind" in answers[1].error
    assert "damaged or cut short" in answers[2].error
    assert answers[0].text == one_by_one(mm1_tiny, MIXED[:1], max_tokens=4)[0][0]


def test_a_prompt_too_long_is_an_error_row(mm1_tiny):
    answers = batch_generate(*mm1_tiny, [Request("red " * 2000), MIXED[0]], max_tokens=2)
    assert "context is 1,024" in answers[0].error and answers[1].error is None


def test_stop_texts_end_an_answer(mm1_tiny):
    request = Request("Describe the picture.", PICTURES[:1])
    (whole,) = batch_generate(*mm1_tiny, [request])
    stop = whole.text[3:6]
    (cut,) = batch_generate(*mm1_tiny, [Request(request.prompt, request.images, stop=(stop,))])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.timing.generation_tokens < whole.timing.generation_tokens


def test_the_longest_answer_is_bounded(mm1_tiny):
    (answer,) = batch_generate(*mm1_tiny, [Request("Describe the picture.", PICTURES[:1])], max_tokens=3)
    assert (answer.finish_reason, answer.timing.generation_tokens) == ("length", 3)


def test_shared_shots_are_encoded_and_read_once(mm1_tiny):
    requests = with_shots(4, 6)
    answers = batch_generate(*mm1_tiny, requests, max_tokens=4, batch_size=2)
    texts, timings = one_by_one(mm1_tiny, requests, max_tokens=4)
    assert [answer.text for answer in answers] == texts
    assert sum(answer.timing.encoded_views for answer in answers) == 4 + 6
    prompt = timings[0].prompt_tokens
    read = sum(answer.timing.prefilled_tokens for answer in answers)
    assert read < prompt + 6 * prompt / 4


def test_one_picture_with_many_questions_is_encoded_once(mm1_tiny):
    questions = [QUESTION, "What is it?", "How many objects are there?"]
    answers = batch_generate(*mm1_tiny, [Request(q, PICTURES[:1]) for q in questions], max_tokens=2)
    assert sum(answer.timing.encoded_views for answer in answers) == 1


def test_prompts_that_share_are_found_wherever_they_stand(mm1_tiny):
    requests = [Request(q, [p]) for q in (QUESTION, "What is it?") for p in PICTURES[:3]]
    answers = batch_generate(*mm1_tiny, requests, max_tokens=2)
    assert sum(answer.timing.encoded_views for answer in answers) == 3
    read = sum(answer.timing.prefilled_tokens for answer in answers)
    assert read < sum(answer.timing.prompt_tokens for answer in answers) - 3 * 16


@pytest.mark.slow
def test_eight_shots_for_a_hundred_questions_cost_a_fifth(mm1_tiny):
    requests = with_shots(8, 100)
    start = time.perf_counter()
    texts, timings = one_by_one(mm1_tiny, requests, max_tokens=8)
    single_seconds = time.perf_counter() - start
    start = time.perf_counter()
    answers = batch_generate(*mm1_tiny, requests, max_tokens=8)
    seconds = time.perf_counter() - start
    assert [answer.text for answer in answers] == texts
    for count in ("encoded_views", "prefilled_tokens"):
        together = sum(getattr(answer.timing, count) for answer in answers)
        assert sum(getattr(timing, count) for timing in timings) >= 5 * together
    assert single_seconds >= 2 * seconds  # alone on two cores it is 4 times


@pytest.mark.parametrize("setting", ["batch_size", "max_tokens", "prefill_step_size", "vision_batch_size"])
def test_a_setting_below_1_is_refused(mm1_tiny, setting):
    with pytest.raises(SamplingError, match=f"`{setting}` is 0, expected at least 1"):
        batch_generate(*mm1_tiny, MIXED, **{setting: 0})


def test_one_seed_gives_one_batch(mm1_tiny):
    options = {"sampling": Sampling(temp=1.0, seed=0), "max_tokens": 8}
    first, second = (batch_generate(*mm1_tiny, MIXED[:3], **options) for _ in range(2))
    assert [a.text for a in first] == [a.text for a in second]
    other = batch_generate(*mm1_tiny, MIXED[:3], sampling=Sampling(temp=1.0, seed=1), max_tokens=8)
    assert [a.text for a in first] != [a.text for a in other]


def test_no_request_gives_no_answer(mm1_tiny):
    assert batch_generate(*mm1_tiny, []) == []
