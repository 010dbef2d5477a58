"""The data sets of questions that MM1 reports: VQAv2, OK-VQA, TextVQA, VizWiz, GQA, as they were published.

Sources: Goyal et al., "Making the V in VQA Matter" (arXiv:1612.00837); Marino et al., "OK-VQA" (arXiv:1906.00067);
Singh et al., "Towards VQA Models That Can Read" (arXiv:1904.08920); Gurari et al., "VizWiz Grand Challenge"
(arXiv:1802.08218); Hudson and Manning, "GQA" (arXiv:1902.09506).
"""

from __future__ import annotations

from typing import Any

from mm1_mlx.evaluation.tasks.places import Places, expect_layout, read_json
from mm1_mlx.evaluation.tasks.task import Item, Split, find_commonest, join_lines

COCO_YEAR = {"queries": "val2014", "support": "train2014"}


def read_vqav2(data: str | None, split: Split) -> list[Item]:
    """Read VQAv2's validation or training questions and their annotations, scored by kind of answer too."""
    year = COCO_YEAR[split]
    names = (f"v2_OpenEnded_mscoco_{year}_questions.json", f"v2_mscoco_{year}_annotations.json")
    return _read_vqa(Places(data, "vqav2", "coco"), names, year, group="answer_type")


def read_okvqa(data: str | None, split: Split) -> list[Item]:
    """Read OK-VQA's questions and annotations.

    Its scores count stemmed answers; a worked example shows what was written before that.
    """
    year = COCO_YEAR[split]
    names = (f"OpenEnded_mscoco_{year}_questions.json", f"mscoco_{year}_annotations.json")
    return _read_vqa(Places(data, "okvqa", "coco"), names, year, written="raw_answer")


def _read_vqa(
    places: Places,
    names: tuple[str, str],
    year: str,
    *,
    written: str = "answer",
    group: str | None = None,
) -> list[Item]:
    """Read questions from one file and their answers from another; some questions may have no answers."""
    asked, answered = (places.find_file(name) for name in names)
    with expect_layout(answered, "VQA's annotations"):
        found: dict[Any, dict[str, Any]] = {
            own["question_id"]: {
                "answers": tuple(answer["answer"] for answer in own["answers"]),
                "shown": find_commonest([answer[written] for answer in own["answers"]]),
                "group": own[group] if group else None,
            }
            for own in read_json(answered)["annotations"]
        }
    folder, none = places.find_pictures(year), {"answers": (), "shown": "", "group": None}
    with expect_layout(asked, "VQA's questions"):
        return [
            Item(
                str(own["question_id"]),
                folder / f"COCO_{year}_{own['image_id']:012}.jpg",
                question=join_lines(own["question"]),
                **found.get(own["question_id"], none),
            )
            for own in read_json(asked)["questions"]
        ]


def read_textvqa(data: str | None, split: Split) -> list[Item]:
    """Read ``TextVQA_0.5.1_val.json`` or ``…_train.json``; both have their pictures in ``train_images``."""
    places = Places(data, "textvqa", "textcaps")
    path = places.find_file(f"TextVQA_0.5.1_{'val' if split == 'queries' else 'train'}.json")
    folder = places.find_pictures("train_images")
    with expect_layout(path, "TextVQA"):
        return [
            Item(
                str(own["question_id"]),
                folder / f"{own['image_id']}.jpg",
                tuple(own.get("answers", ())),
                join_lines(own["question"]),
            )
            for own in read_json(path)["data"]
        ]


def read_vizwiz(data: str | None, split: Split) -> list[Item]:
    """Read VizWiz's ``val.json`` or ``train.json``: one question for each picture, which may not show the answer."""
    places, name = Places(data, "vizwiz"), "val" if split == "queries" else "train"
    path, folder = places.find_file(f"{name}.json"), places.find_pictures(name)
    with expect_layout(path, "VizWiz"):
        return [
            Item(
                own["image"],
                folder / own["image"],
                tuple(answer["answer"] for answer in own.get("answers", ())),
                join_lines(own["question"]),
                group=own.get("answer_type"),
            )
            for own in read_json(path)
        ]


def read_gqa(data: str | None, split: Split) -> list[Item]:
    """Read GQA's balanced questions, of testdev or for training, scored by their structure too."""
    places = Places(data, "gqa")
    path = places.find_file(f"{'testdev' if split == 'queries' else 'train'}_balanced_questions.json")
    folder = places.find_pictures("images")
    with expect_layout(path, "GQA's questions"):
        return [
            Item(
                id,
                folder / f"{own['imageId']}.jpg",
                (own["answer"],) if "answer" in own else (),
                join_lines(own["question"]),
                group=own["types"]["structural"],
            )
            for id, own in read_json(path).items()
        ]
