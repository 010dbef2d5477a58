"""What reading from shards costs a pre-training: time against rows in memory, memory over time, rows after a resume.

    python examples/benchmarks/sharded_sources.py                          # 20,000 rows, 2,000 updates
    python examples/benchmarks/sharded_sources.py --rows 2000 --updates 400

The rows are captions in three tar shards, documents of two pictures in three Parquet shards, and text in JSON lines, in
MM1's shares. The same updates are computed in processes of their own: ``shards`` from the files, ``memory`` from rows
that were read before the clock starts, and ``resumed`` from the files again, stopped inside a shard and gone on with.
Wall time counts updates alone. Run it where nothing else runs, with OPENBLAS_NUM_THREADS=1 on a Linux CPU.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from mm1_mlx import Trainer
from mm1_mlx.data.row_forms import Record
from mm1_mlx.data.sources import READERS
from mm1_mlx.tiny.corpora import CORPORA
from mm1_mlx.training.pretraining.recipe import PretrainingRecipe
from mm1_mlx.training.pretraining.stages import Stages

SHARDS = 3
RESUMED = 100  # updates after a stop that are compared
GROUP = 100  # rows of a Parquet row group


class InMemory:
    """The rows of a file, read once, in the groups in which the file would be read."""

    def __init__(self, file: Any):
        self._rows: list[Record] = [file[index] for index in range(len(file))]
        if hasattr(file, "groups"):
            self.groups = file.groups

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        return self._rows[index]


def write_rows(folder: Path, rows: int) -> None:
    """Write the shards: 45 % captions, 45 % documents, 10 % text."""
    import pyarrow
    import pyarrow.parquet

    each = rows * 45 // 100 // SHARDS
    for shard in range(SHARDS):
        with tarfile.open(folder / f"captions-{shard}.tar", "w") as archive:
            for index in range(shard * each, (shard + 1) * each):
                picture, caption = make_captioned_picture(index)
                for suffix, data in (("jpg", picture), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{index:06}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        table = pyarrow.Table.from_pylist(
            [make_document(index) for index in range(shard * each, (shard + 1) * each)]
        )
        pyarrow.parquet.write_table(table, folder / f"documents-{shard}.parquet", row_group_size=GROUP)
    lines = (json.dumps(CORPORA["text"](index, 0)) for index in range(rows - 2 * SHARDS * each))
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_captioned_picture(index: int) -> tuple[bytes, str]:
    """Make a picture, as JPEG, and its caption."""
    row, packed = CORPORA["captions"](index, 0), io.BytesIO()
    row["image"].save(packed, "JPEG")
    return packed.getvalue(), row["caption"]


def make_document(index: int) -> dict[str, Any]:
    """Make a document of two pictures in the columns of OBELICS."""
    pairs = [make_captioned_picture((1 << 20) + 2 * index + number) for number in range(2)]
    pictures = [piece for picture, _ in pairs for piece in (picture, None)]
    return {"images": pictures, "texts": [piece for _, text in pairs for piece in (None, text)]}


def make_recipe(folder: Path, updates: int) -> PretrainingRecipe:
    """Return a recipe for a small model, with which reading takes a larger share of the time than usual."""
    sources = {
        "captions": {"path": str(folder / f"captions-{{0..{SHARDS - 1}}}.tar")},
        "interleaved": {"path": str(folder / f"documents-{{0..{SHARDS - 1}}}.parquet")},
        "text": {"path": str(folder / "text.jsonl")},
    }
    small = {
        "preset": "mm1-tiny",
        "vision_config": {"num_layers": 2, "image_size": 56},
        "image_config": {"image_size": 56},
        "text_config": {"num_layers": 2},
    }
    stage = {"name": "mix", "iters": updates, "batch_size": 8, "learning_rate": 1e-3, "schedule": "constant"}
    stage |= {"steps_per_report": 1, "save_every": updates}
    return PretrainingRecipe.from_dict({"model": small, "sources": sources, "stages": [stage]})


class Watch:
    """Records time, memory and the mixture at each update.

    Args:
        every: number of updates between measurements of memory.
        stop: the update after which the run is stopped, as by a signal; None: it runs to its end.
    """

    def __init__(self, every: int, stop: int | None):
        self.lines: dict[int, float] = {}  # the loss of each update
        self.resident: dict[int, int] = {}  # bytes after an update
        self.shares: dict[str, float] = {}  # of the rows, summed over updates
        self.trainer: Trainer | None = None
        self._every, self._stop = every, stop

    def __call__(self, line: dict[str, Any]) -> None:
        update = line["update"]
        if not self.lines:  # the first update compiles and fills caches
            self.first, self.began, self.used = update, time.perf_counter(), time.process_time()
        self.ended, self.spent = time.perf_counter(), time.process_time()
        self.lines[update] = line["loss"]
        for name, source in line["mixture"].items():
            self.shares[name] = self.shares.get(name, 0) + source["rows"]
        if update % self._every == 0:
            self.resident[update] = measure_resident_bytes()
        if update == self._stop and self.trainer is not None:
            self.trainer.stop("the benchmark")

    def summarise(self) -> dict[str, Any]:
        """Return the measured seconds, bytes, shares and losses."""
        return {
            "wall": self.ended - self.began,
            "cpu": self.spent - self.used,
            "resident": self.resident,
            "shares": {name: share / len(self.lines) for name, share in self.shares.items()},
            "losses": self.lines,
        }


def measure_resident_bytes() -> int:
    """Return how many bytes of memory this process holds now."""
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True)
    return int(found.stdout) * 1024


def run(way: str, folder: Path, updates: int, output: Path) -> dict[str, Any]:
    """Compute the updates of one way and return what was measured."""
    if way == "memory":
        for suffix, reader in list(READERS.items()):
            READERS[suffix] = lambda path, columns, reader=reader: InMemory(reader(path, columns))
    plan = make_recipe(folder, updates)
    stages, (stage,) = Stages(plan, output, {}), plan.stages
    middle = updates // 2 + 3
    watch = Watch(updates // 10, {"stopped": middle, "resumed": middle + RESUMED}.get(way))
    trainer = Trainer(stages.prepare(stage).task, stage.options, stages.folder_of(stage), report=watch)
    watch.trainer = trainer
    if way == "resumed" and not trainer.resume():
        raise SystemExit("there is nothing to go on from")
    trainer.train()
    return watch.summarise()


def run_in_process(way: str, folder: Path, updates: int, output: Path) -> dict[str, Any]:
    """Run one way in a process of its own."""
    flags = [__file__, "--way", way, "--folder", folder, "--updates", updates, "--output", output]
    done = subprocess.run([sys.executable, *map(str, flags)], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    print(f"{way:8}: {found['wall']:.1f} s wall, {found['cpu']:.1f} s cpu", file=sys.stderr)
    return found


def compare(folder: Path, updates: int) -> dict[str, Any]:
    """Run all ways and return the figures."""
    ways = ("shards", "memory", "stopped", "resumed")
    outputs = {way: folder / way for way in ways} | {"resumed": folder / "stopped"}
    found = {way: run_in_process(way, folder, updates, outputs[way]) for way in ways}
    shards, memory = found["shards"], found["memory"]
    whole, again = shards["losses"], found["resumed"]["losses"]
    resident = shards["resident"]
    return {
        "updates": updates,
        "wall": shards["wall"] / memory["wall"],
        "cpu": shards["cpu"] / memory["cpu"],
        "equal losses": whole == memory["losses"],
        "resident MB": {update: round(size / 1e6, 1) for update, size in resident.items()},
        "resident, last to first": resident[str(updates)] / resident[str(updates // 10)],
        "resumed updates": len(again),
        "resumed exactly": all(whole[update] == loss for update, loss in again.items()),
        "shares of the rows": shards["shares"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--updates", type=int, default=2000, help="a multiple of 10")
    parser.add_argument("--folder", type=Path, help="keep rows and runs here; else they are deleted")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(run(args.way, args.folder, args.updates, args.output)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder, args.rows)
        print(json.dumps(compare(folder, args.updates), indent=2))


if __name__ == "__main__":
    main()
