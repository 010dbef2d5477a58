"""How much time an evaluation saves where it reads shots once, keeps visual tokens and writes answers together.

    python examples/benchmarks/shared_shots.py                    # 1,000 questions behind 8 shots
    python examples/benchmarks/shared_shots.py --limit 100 --select random

Both ways run in this process, one after the other, on the same questions: ``one by one`` reads every prompt from its
first token, encodes all its pictures, and answers alone; the other is what ``mm1_mlx.evaluate`` does. Their predictions
must be equal. Wall time counts everything from opened weights to written report; CPU time moves less where other
programs run (with OPENBLAS_NUM_THREADS=1: waiting threads compute, too).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from mm1_mlx import EvaluationSettings, evaluate, load, tiny


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mm1-tiny")
    parser.add_argument("--task", default="tiny-color", choices=sorted(tiny.tiny_tasks()))
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--select", default="fixed", choices=("fixed", "random", "rices"))
    parser.add_argument("--rank", action="store_true", help="rank the choices, too")
    args = parser.parse_args()
    settings = EvaluationSettings(shots=(args.shots,), limit=args.limit, select=args.select, rank=args.rank)
    model, processor = load(args.model)
    task, seconds, predictions = tiny.tiny_tasks()[args.task], {}, {}
    evaluate(model, processor, [task], replace(settings, limit=16))  # first shapes
    ways = {"one by one": replace(settings, one_by_one=True), "shared": settings}
    for way, own in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu = time.perf_counter(), time.process_time()
            report = evaluate(model, processor, [task], own, output=Path(folder))
            seconds[way] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            predictions[way] = (Path(folder) / "predictions.jsonl").read_text("utf-8")
        numbers = ", ".join(f"{value:.1f} s {name}" for name, value in seconds[way].items())
        print(f"{way:10}: {numbers}, {report['results'][0]['score']:.1f} % right", file=sys.stderr)
    equal = predictions["one by one"] == predictions["shared"]
    shares = {name: seconds["shared"][name] / seconds["one by one"][name] for name in ("wall", "cpu")}
    print(json.dumps(vars(args) | {"seconds": seconds, "share": shares, "equal": equal}, indent=2))
    if not equal:
        raise SystemExit("the predictions differ")


if __name__ == "__main__":
    main()
