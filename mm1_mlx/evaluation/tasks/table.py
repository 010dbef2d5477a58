"""The tasks by name. A new task is one line here: a reader, a metric, how long an answer may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.tasks.captions import read_coco, read_nocaps, read_textcaps
from mm1_mlx.evaluation.tasks.questions import (
    read_gqa,
    read_okvqa,
    read_textvqa,
    read_vizwiz,
    read_vqav2,
)
from mm1_mlx.evaluation.tasks.rows import read_rows
from mm1_mlx.evaluation.tasks.task import Task

PUBLISHED = (
    Task("coco", "COCO", "captions; dataset_coco.json (Karpathy's test split), val2014/, train2014/", read_coco,
         "cider", 20),
    Task("nocaps", "NoCaps", "captions; nocaps_val_4500_captions.json, val/; shots from COCO", read_nocaps,
         "cider", 20),
    Task("textcaps", "TextCaps", "captions; TextCaps_0.1_val.json, train_images/", read_textcaps, "cider", 20),
    Task("vqav2", "VQAv2", "questions; v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json, "
         "val2014/", read_vqav2, "vqa", 5),
    Task("textvqa", "TextVQA", "questions; TextVQA_0.5.1_val.json, train_images/", read_textvqa, "vqa", 10),
    Task("vizwiz", "VizWiz", "questions; val.json, val/", read_vizwiz, "vqa", 5),
    Task("gqa", "GQA", "questions; testdev_balanced_questions.json, images/", read_gqa, "exact", 5),
    Task("okvqa", "OKVQA", "questions; OpenEnded_mscoco_val2014_questions.json, mscoco_val2014_annotations.json, "
         "val2014/", read_okvqa, "vqa", 5),
)  # fmt: skip
ROWS = Task(
    "rows",
    "own rows",
    "your own questions or captions: test.jsonl; shots from train.jsonl",
    read_rows,
    None,
    64,
)
TASKS: Mapping[str, Task] = {task.name: task for task in (*PUBLISHED, ROWS)}


def find_tasks(
    names: Sequence[str], known: Mapping[str, Task] = TASKS, *, parameter: str = "tasks"
) -> list[Task]:
    """Return the tasks of some names; a name that ends in ``*`` means all names that begin so.

    Args:
        names: the names that were asked for.
        known: all tasks by name.
        parameter: what a message calls ``names``.

    Raises:
        DataError: one is not known, or none is given.
    """
    found: dict[str, Task] = {}
    for name in names:
        star = name.endswith("*")
        meant = [task for task in known.values() if star and task.name.startswith(name[:-1])]
        meant = meant or ([known[name]] if name in known else [])
        if not meant:
            raise DataError(f"`{parameter}` has {name!r}, which is none of {', '.join(known)}.")
        found |= {task.name: task for task in meant}
    if not found:
        raise DataError(f"`{parameter}` is empty, expected some of {', '.join(known)}.")
    return list(found.values())
