"""From predictions to scores, intervals and spreads."""

import pytest

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.cider import cider
from mm1_mlx.evaluation.results import compute_results


def line(id, answer, references, *, shots=0, seed=0, **more):
    return {
        "task": "t",
        "shots": shots,
        "seed": seed,
        "id": id,
        "answer": answer,
        "references": references,
    } | more


def test_seeds_have_a_mean_and_a_spread():
    lines = [line(str(n), "a", ["a" if n < right else "b"], shots=4, seed=seed)
             for seed, right in ((0, 5), (1, 7)) for n in range(10)]  # fmt: skip
    (result,) = compute_results(lines, "exact", "official")
    assert (result["score"], result["scores"]) == (60, {"0": 50, "1": 70})
    assert result["spread"] == pytest.approx(14.1421, abs=1e-4)  # of two means that differ by 20
    low, high = result["interval"]
    assert 20 <= low < 60 < high <= 100
    assert [own["score"] for own in lines[:6]] == [100] * 5 + [0]


def test_one_seed_has_no_spread_and_sure_answers_no_interval():
    (result,) = compute_results([line(str(n), "a", ["a"]) for n in range(5)], "exact", "official")
    assert result["spread"] is None and result["interval"] == [100, 100]


def test_cider_is_that_of_all_captions_and_of_each_group_by_itself():
    captions = ["a red cat sits", "a blue dog runs", "two green birds fly", "one black horse"]
    lines = [line(str(n), text, [text, f"some {text}"], group="xy"[n % 2]) for n, text in enumerate(captions)]
    (result,) = compute_results(lines, "cider", "official")
    mean, _ = cider(
        {own["id"]: own["answer"] for own in lines}, {own["id"]: own["references"] for own in lines}
    )
    assert result["score"] == pytest.approx(100 * mean, abs=1e-3)
    own = [own for own in lines if own["group"] == "x"]
    mean, _ = cider({o["id"]: o["answer"] for o in own}, {o["id"]: o["references"] for o in own})
    assert result["groups"]["x"] == {"score": pytest.approx(100 * mean, abs=1e-3), "num_queries": 2}


def test_vqa_accuracy_goes_by_its_rules():
    lines = [line("1", "The cat.", ["cat"] * 10), line("2", "cat", ["cat"] * 10)]
    assert compute_results(lines, "vqa", "official")[0]["score"] == 50
    assert compute_results(lines, "vqa", "lmms")[0]["score"] == 100


def test_what_failed_is_counted_and_not_scored():
    lines = [
        line("1", "a", ["a"]),
        {"task": "t", "shots": 0, "seed": 0, "id": "2", "references": ["a"], "error": "no"},
    ]
    (result,) = compute_results(lines, "exact", "official")
    assert (result["score"], result["num_queries"], result["num_failed"]) == (100, 2, 1)
    with pytest.raises(DataError, match="no query was answered"):
        compute_results(lines[1:], "exact", "official")


def test_choices_and_the_control_have_scores_of_their_own():
    lines = [line(str(n), "b", ["a"], ranked="a") for n in range(4)]
    lines += [line(str(n), "a" if n else "b", ["a"], swapped=True) for n in range(4)]
    (result,) = compute_results(lines, "exact", "official")
    assert (result["score"], result["ranked"]["score"], result["swapped"]["score"]) == (0, 100, 75)
    assert lines[0]["ranked_score"] == 100


def test_answers_of_shots_and_queries_are_told_in_shares():
    lines = [line(str(n), "a", ["a", "a", "b"], shots=2, shot_ids=["x", "y"]) for n in range(3)]
    (result,) = compute_results(lines, "exact", "official", {"x": "yes", "y": "no"})
    assert result["query_answers"] == {"a": 1.0} and result["shot_answers"] == {"no": 0.5, "yes": 0.5}


def test_a_query_without_references_is_named():
    with pytest.raises(DataError, match="query 7 has no `references`"):
        compute_results([line("7", "a", [])], "vqa", "official")
