"""The scores of predictions: those of each pass, their mean over seeds, and how certain it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.answers import Rules, exact_match, vqa_accuracy
from mm1_mlx.evaluation.cider import cider
from mm1_mlx.evaluation.intervals import bootstrap_interval
from mm1_mlx.evaluation.shots import share_out
from mm1_mlx.evaluation.tasks.task import Metric, find_commonest

Line = dict[str, Any]  # a line of predictions.jsonl
Result = dict[str, Any]  # a result in results.json

DIGITS = 4  # of written scores, after the point


def score_lines(lines: Sequence[Line], metric: Metric, rules: Rules, *, key: str = "answer") -> list[float]:
    """Return the score of each line's answer in percent; CIDEr may go above 100.

    Args:
        lines: the lines of one pass, each with ``references`` and the answer; ids are all different.
        metric: how an answer is scored.
        rules: the rules of VQA accuracy.
        key: which answer to score: the written one, or the likeliest choice, ``ranked``.

    Raises:
        DataError: a line has no reference.
    """
    for line in lines:
        if not line.get("references"):
            raise DataError(f"query {line['id']} has no `references`, so it cannot be scored.")
    if metric == "cider":
        if not lines:
            return []
        _, scores = cider(
            {line["id"]: line[key] for line in lines}, {line["id"]: line["references"] for line in lines}
        )
        return [100 * scores[line["id"]] for line in lines]
    if metric == "vqa":
        return [100 * vqa_accuracy(line[key], line["references"], rules) for line in lines]
    return [100 * exact_match(line[key], line["references"]) for line in lines]


def compute_results(
    lines: Iterable[Line], metric: Metric, rules: Rules, examples: Mapping[str, str] | None = None
) -> list[Result]:
    """Return one result for each number of shots of a task; each line gets its ``score``.

    Args:
        lines: the lines of all passes of the task.
        metric: how an answer is scored.
        rules: the rules of VQA accuracy.
        examples: what each worked example answers, by id, for the balance of the shots.

    Raises:
        DataError: there is nothing to score.
    """
    passes: dict[tuple[int, bool], dict[int, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        passes[line["shots"], line.get("swapped", False)][line["seed"]].append(line)
    results = []
    for (shots, swapped), seeds in passes.items():
        if swapped:
            continue
        result = _compute_result(seeds, metric, rules)
        if metric != "cider":
            answers = [find_commonest(line["references"]) for line in next(iter(seeds.values()))]
            result["query_answers"] = share_out(answers)
            result["shot_answers"] = share_out(_list_shown(seeds, examples or {}))
        if (shots, True) in passes:
            control = _compute_result(passes[shots, True], metric, rules)
            result["swapped"] = {name: control[name] for name in ("score", "interval", "scores")}
        results.append({"shots": shots} | result)
    if not results:
        raise DataError("there are answers about another's picture alone, so there is nothing to score.")
    return results


def _compute_result(seeds: dict[int, list[Line]], metric: Metric, rules: Rules) -> Result:
    by_seed = {seed: [line for line in lines if "error" not in line] for seed, lines in seeds.items()}
    if not any(by_seed.values()):
        raise DataError("no query was answered, so there is nothing to score.")

    def score_all(lines: Sequence[Line]) -> list[float]:
        return score_lines(lines, metric, rules)

    scores = {seed: score_all(lines) for seed, lines in by_seed.items()}
    for seed, lines in by_seed.items():
        for line, score in zip(lines, scores[seed], strict=True):
            line["score"] = round(score, DIGITS)
    answered = [line for lines in by_seed.values() for line in lines]
    result = _average_over_seeds(by_seed, scores) | {
        "num_queries": max(map(len, seeds.values())),
        "num_failed": sum("error" in line for lines in seeds.values() for line in lines),
    }
    groups = {line["group"] for line in answered if line.get("group") is not None}
    if groups:
        result["groups"] = {group: _score_group(by_seed, group, score_all) for group in sorted(groups)}
    if any("ranked" in line for line in answered):
        result["ranked"] = _score_ranking(by_seed, metric, rules)
    return result


def _list_shown(seeds: dict[int, list[Line]], examples: Mapping[str, str]) -> list[str]:
    """Return the answers of the shots of all queries; a shot counts once for each query that has it."""
    ids = [id for lines in seeds.values() for line in lines for id in line.get("shot_ids", ())]
    return [examples[id] for id in ids if id in examples]


def _average_over_seeds(by_seed: dict[int, list[Line]], scores: dict[int, list[float]]) -> Result:
    """Return the mean score over seeds, its interval over queries, and the spread over seeds."""
    by_query: dict[str, list[float]] = defaultdict(list)
    for seed, lines in by_seed.items():
        for line, score in zip(lines, scores[seed], strict=True):
            by_query[line["id"]].append(score)
    interval = bootstrap_interval([fmean(values) for values in by_query.values()])
    means = {seed: fmean(values) for seed, values in scores.items() if values}
    return {
        "score": round(fmean(means.values()), DIGITS),
        "interval": [round(interval.low, DIGITS), round(interval.high, DIGITS)],
        "spread": round(stdev(means.values()), DIGITS) if len(means) > 1 else None,
        "scores": {str(seed): round(mean, DIGITS) for seed, mean in means.items()},
    }


def _score_group(
    by_seed: dict[int, list[Line]], group: str, score_all: Callable[[Sequence[Line]], list[float]]
) -> Result:
    """Score a group of queries. CIDEr counts words in the group's references only, as for the domains of NoCaps."""
    own = [[line for line in lines if line.get("group") == group] for lines in by_seed.values()]
    means = [fmean(score_all(lines)) for lines in own if lines]
    return {"score": round(fmean(means), DIGITS), "num_queries": max(map(len, own))}


def _score_ranking(by_seed: dict[int, list[Line]], metric: Metric, rules: Rules) -> Result:
    """Score the likeliest choices; a query without choices does not count."""
    choosing = {seed: [line for line in lines if "ranked" in line] for seed, lines in by_seed.items()}
    choosing = {seed: lines for seed, lines in choosing.items() if lines}
    scores = {seed: score_lines(lines, metric, rules, key="ranked") for seed, lines in choosing.items()}
    for seed, lines in choosing.items():
        for line, score in zip(lines, scores[seed], strict=True):
            line["ranked_score"] = round(score, DIGITS)
    return _average_over_seeds(choosing, scores) | {"num_queries": max(map(len, choosing.values()))}
