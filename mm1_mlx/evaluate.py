"""Measure a model few-shot: captions by CIDEr, answers by VQA accuracy or exact match, with 0, 4, 8 or 16 examples."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mm1_mlx import flags
from mm1_mlx.command import Subcommand, add_subcommands, entry_points, say
from mm1_mlx.errors import UsageError
from mm1_mlx.evaluation.answers import Rules
from mm1_mlx.evaluation.settings import EvaluationSettings, Select, Style
from mm1_mlx.settings import EMBEDDED_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mm1_mlx.evaluation.tasks.task import Task
    from mm1_mlx.evaluation.writing import Cell

SCORE = "score a file of predictions by itself"
TINY = "measure mm1-tiny, or a model like it, on the table of its card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="NAME",
        help="what to measure, by blanks or commas; tiny-* is all that begin so; --list-tasks tells which there are",
    )  # fmt: skip
    parser.add_argument(
        "--list-tasks", action="store_true", help="tell the tasks and the files that each reads"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="where the data sets are, as published; or, for rows, a hub id"
    )
    parser.add_argument("--output", metavar="DIR", help="for results.json, .md, .png and predictions.jsonl")
    parser.add_argument("--resume", action="store_true", help="go on with what --output holds")
    _add_examples(parser)
    _add_asking(parser)
    _add_scoring(parser)
    flags.add_large_pictures(parser)
    flags.add_reading(parser)
    add_subcommands(
        parser,
        Subcommand("score", SCORE, add_score, run_score),
        Subcommand("tiny", TINY, add_tiny, run_tiny),
        required=False,
    )


def _add_examples(parser: argparse.ArgumentParser) -> None:
    default, few = EvaluationSettings(), parser.add_argument_group("worked examples")
    few.add_argument(
        "--shots",
        nargs="+",
        type=int,
        default=list(default.shots),
        metavar="N",
        help="how many, each is measured",
    )
    few.add_argument(
        "--shot-seeds",
        nargs="+",
        type=int,
        default=list(default.shot_seeds),
        metavar="SEED",
        help="of their choice, each is measured",
    )
    few.add_argument(
        "--select", choices=get_args(Select), default=default.select,
        help="fixed: the same at random for all queries of a seed; random: anew for each query; rices: those with the "
        "most alike pictures",
    )  # fmt: skip
    few.add_argument(
        "--support-limit", type=int, metavar="N", help="choose them from so many of the support split"
    )
    few.add_argument(
        "--low-resolution-shots", action="store_true", help="one view for each example, so that more fit"
    )


def _add_asking(parser: argparse.ArgumentParser) -> None:
    default, asking = EvaluationSettings(), parser.add_argument_group("asking")
    asking.add_argument(
        "--prompts", choices=get_args(Style), default=default.prompts,
        help="mm1 as the paper's are remembered; openflamingo, whose 0 shots are two without pictures; chat: examples as "
        "turns of the chat template",
    )  # fmt: skip
    asking.add_argument("--system", help="system message")
    asking.add_argument(
        "--max-tokens",
        type=int,
        help="longest answer; by default the task's. Answers are greedy, there are no beams",
    )
    asking.add_argument(
        "--limit", type=int, metavar="N", help="so many queries of each task, drawn once for all"
    )
    asking.add_argument(
        "--skip-missing", action="store_true", help="leave out and count what has no picture or no references"
    )
    asking.add_argument("--batch-size", type=int, default=default.batch_size, help="answers written together")
    asking.add_argument(
        "--one-by-one", action="store_true", help="share, keep and batch nothing: slow, to check the rest by"
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--rank", action="store_true", help="also take the likeliest choice, where a task has choices"
    )
    scoring.add_argument(
        "--swapped", action="store_true", help="also ask about another query's picture, as a control"
    )
    _add_vqa_rules(scoring)


def _add_vqa_rules(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--vqa-rules", choices=get_args(Rules), default=EvaluationSettings().vqa_rules, help="of VQA accuracy"
    )


def run(args: argparse.Namespace) -> None:
    if hasattr(args, "subcommand"):
        args.subcommand(args)
    elif args.list_tasks:
        for task in _known_tasks().values():
            print(f"{task.name:14} {task.about}")
    else:
        _measure(args)


def _measure(args: argparse.Namespace) -> None:
    if not args.tasks:
        raise UsageError("give --tasks NAME; --list-tasks tells which there are.")
    if args.resume and not args.output:
        raise UsageError("--resume goes on with an --output folder; give it.")
    settings = _settings_of(args)
    from mm1_mlx.evaluation.exam import open_exam
    from mm1_mlx.evaluation.report import write_tables
    from mm1_mlx.evaluation.run import evaluate
    from mm1_mlx.evaluation.tasks.table import find_tasks

    tasks = find_tasks(_names(args.tasks), _known_tasks())
    exams = [open_exam(task, args.data, settings) for task in tasks]  # before weights are read
    model, processor = flags.load_model(args)
    if args.model == EMBEDDED_MODEL:
        say(flags.TINY_NOTICE)
    bars = _Bars()
    try:
        report = evaluate(
            model,
            processor,
            exams,
            settings,
            output=None if args.output is None else Path(args.output).expanduser(),
            resume=args.resume,
            name=Path(args.model).name,
            vision_cache=flags.vision_cache_of(args),
            progress=bars.show,
        )
    finally:
        bars.close()
    print(write_tables(report), end="")


def _settings_of(args: argparse.Namespace) -> EvaluationSettings:
    return EvaluationSettings(
        shots=tuple(args.shots),
        shot_seeds=tuple(args.shot_seeds),
        select=args.select,
        prompts=args.prompts,
        system=args.system,
        low_resolution_shots=args.low_resolution_shots,
        max_tokens=args.max_tokens,
        rank=args.rank,
        swapped=args.swapped,
        limit=args.limit,
        support_limit=args.support_limit,
        skip_missing=args.skip_missing,
        vqa_rules=args.vqa_rules,
        batch_size=args.batch_size,
        one_by_one=args.one_by_one,
        prefill_step_size=args.prefill_step_size,
        vision_batch_size=args.vision_batch_size,
    )


def add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="predictions.jsonl, or lines with id and answer")
    parser.add_argument("--task", metavar="NAME", help="what was asked; by default all that the file names")
    parser.add_argument("--data", metavar="DIR", help="where the references are, if not in the file")
    _add_vqa_rules(parser)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run_score(args: argparse.Namespace) -> None:
    from mm1_mlx.evaluation.report import write_measured
    from mm1_mlx.evaluation.rescoring import find_named_tasks, score_file
    from mm1_mlx.evaluation.tasks.table import find_tasks

    path = Path(args.file).expanduser()
    names = find_named_tasks(path) if args.task is None else _names([args.task])
    tasks = find_tasks(names, _known_tasks(), parameter="task")
    scored = [score_file(path, task, data=args.data, rules=args.vqa_rules) for task in tasks]
    results = [result for of_task in scored for result in of_task]
    print(json.dumps(results, indent=2, ensure_ascii=False) if args.json else write_measured(results))


def add_tiny(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="NAME", help="of the table; by default all that can be made"
    )
    parser.add_argument("--items", type=int, default=1000, metavar="N", help="of each row")
    parser.add_argument(
        "--fetched", action="store_true", help="show all pictograms, which mm1_mlx.tiny.fetching has fetched"
    )
    parser.add_argument(
        "--batch-size", type=int, default=EvaluationSettings().batch_size, help="answers written together"
    )
    parser.add_argument("--output", metavar="FILE", help="for the scores as JSON")


def run_tiny(args: argparse.Namespace) -> None:
    from mm1_mlx.tiny.corpora import open_full_stock
    from mm1_mlx.tiny.measuring import find_rows, measure, require_scores_place, save_scores, write_score
    from mm1_mlx.tiny.stock import SHIPPED

    stock = open_full_stock() if args.fetched else SHIPPED
    rows = find_rows(_names(args.rows), stock)
    path = None if args.output is None else Path(args.output).expanduser()
    if path is not None:
        require_scores_place(path)  # before hours of questions
    model, processor = flags.load_model(args)
    scores = []
    for score in measure(model, processor, rows, stock=stock, num=args.items, batch_size=args.batch_size):
        print(write_score(score), flush=True)
        scores.append(score)
        if path is not None:
            save_scores(path, scores)


def _known_tasks() -> Mapping[str, Task]:
    from mm1_mlx.evaluation.tasks.table import TASKS
    from mm1_mlx.tiny import tiny_tasks

    return {**TASKS, **tiny_tasks()}


def _names(words: list[str]) -> list[str]:
    return [name for word in words for name in word.split(",") if name]


class _Bars:
    """Progress bars on stderr, one for each pass over a task."""

    def __init__(self):
        self._bar: Any = None
        self._of: tuple[str, Cell] | None = None
        self._start = time.perf_counter()

    def show(self, task: str, cell: Cell, done: int, number: int) -> None:
        """Move the bar of this pass, or begin a new one."""
        from tqdm import tqdm

        if self._of != (task, cell):
            self.close()
            control = ", another's pictures" if cell.swapped else ""
            about = f"{task}, {cell.shots} shots, seed {cell.seed}{control}"
            self._bar = tqdm(total=number, desc=about, unit="query", file=sys.stderr)
            self._of = (task, cell)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()
