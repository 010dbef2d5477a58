"""Data sets as they were published, with a handful of rows each and pictures that we drew.

Keys that no reader asks for stand there as in the real files, some of them at least, so that a reader meets them.
"""

import json
from pathlib import Path

from mm1_mlx import tiny

NUM_QUERIES, NUM_SUPPORT = 5, 6


def write_all(folder):
    """Write the eight data sets below ``folder``, each in a folder of its own; return it."""
    for write in (
        write_coco,
        write_nocaps,
        write_textcaps,
        write_vqav2,
        write_okvqa,
        write_textvqa,
        write_vizwiz,
        write_gqa,
    ):
        write(folder)
    return folder


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny.render(tiny.make_scene(seed)).save(path)


def caption(seed):
    return tiny.caption(tiny.make_scene(seed))


def color_of(seed):
    return tiny.make_scene(seed).things[0].color


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), "utf-8")


def coco_name(year, id):
    return f"COCO_{year}_{id:012}.jpg"


def write_coco(folder):
    """Write Karpathy's JSON beside val2014/ and train2014/; restval pictures are in val2014."""
    images = []
    splits = [("test", "val2014")] * NUM_QUERIES + [("train", "train2014")] * 3 + [("restval", "val2014")] * 3
    for number, (split, year) in enumerate([*splits, ("val", "val2014")]):
        id = 1000 + number
        draw(folder / "coco" / year / coco_name(year, id), id)
        said = [caption(id), f"a picture of {caption(id).lower()}\n"]
        sentences = [
            {"tokens": raw.lower().split(), "raw": raw, "imgid": number, "sentid": 10 * number + at}
            for at, raw in enumerate(said)
        ]
        images.append({
            **{"filepath": year, "sentids": [10 * number, 10 * number + 1], "filename": coco_name(year, id)},
            **{"imgid": number, "split": split, "sentences": sentences, "cocoid": id},
        })  # fmt: skip
    write_json(folder / "coco" / "dataset_coco.json", {"images": images, "dataset": "coco"})


def write_nocaps(folder):
    images, annotations = [], []
    for number in range(NUM_QUERIES):
        name = f"{number:016x}.jpg"
        draw(folder / "nocaps" / "val" / name, 2000 + number)
        domain = ("in-domain", "near-domain", "out-domain")[number % 3]
        images.append({
            **{"id": number, "open_images_id": f"{number:016x}", "height": 126, "width": 126, "file_name": name},
            **{"coco_url": f"https://s3.amazonaws.com/nocaps/val/{name}", "license": 0, "domain": domain},
        })  # fmt: skip
        for at in range(2):
            said = caption(2000 + number) if at == 0 else "Some things."
            annotations.append({"image_id": number, "id": 10 * number + at, "caption": said})
    values = {"licenses": [], "info": {"version": "0.1"}, "images": images, "annotations": annotations}
    write_json(folder / "nocaps" / "nocaps_val_4500_captions.json", values)


def write_textcaps(folder):
    """Write a row for each caption; validation and training pictures share a folder."""
    for split, first, number in (("val", 3000, NUM_QUERIES), ("train", 3100, NUM_SUPPORT)):
        rows = []
        for seed in range(first, first + number):
            id = f"{seed:016x}"
            draw(folder / "textcaps" / "train_images" / f"{id}.jpg", seed)
            said = [caption(seed), "Letters and digits."]
            for at, text in enumerate(said):
                rows.append({
                    **{"image_classes": [], "image_width": 126, "image_height": 126, "set_name": split},
                    **{"image_id": id, "image_name": id, "image_path": f"train/{id}.jpg", "caption_id": 2 * seed + at},
                    **{"caption_str": text, "caption_tokens": text.split(), "reference_strs": said},
                })  # fmt: skip
        values = {"dataset_type": split, "dataset_name": "textcaps", "dataset_version": "0.1", "data": rows}
        write_json(folder / "textcaps" / f"TextCaps_0.1_{split}.json", values)


def make_vqa(folder, task, questions, annotations, *, raw=False):
    """Write questions and annotations of validation and training, as VQAv2 and OK-VQA have them."""
    for year, first, number in (("val2014", 4000, NUM_QUERIES), ("train2014", 4100, NUM_SUPPORT)):
        asked, answered = [], []
        for seed in range(first, first + number):
            draw(folder / "coco" / year / coco_name(year, seed), seed)
            id = seed * 1000
            asked.append({"image_id": seed, "question": "What color is  it?", "question_id": id})
            said = [color_of(seed)] * 8 + ["gray", "some color"]
            answers = [
                {"answer_id": at + 1, "answer": answer, "answer_confidence": "yes"}
                | ({"raw_answer": f"{answer}ish"} if raw else {})
                for at, answer in enumerate(said)
            ]
            answered.append({
                **{"question_type": "what color", "answers": answers, "image_id": seed, "question_id": id},
                **({"answer_type": "other"} if raw else {"answer_type": ("other", "yes/no")[seed % 2]}),
                **({} if raw else {"multiple_choice_answer": color_of(seed)}),
            })  # fmt: skip
        head = {"info": {"version": "2.0"}, "license": {}, "data_subtype": year, "data_type": "mscoco"}
        write_json(
            folder / task / questions.format(year), head | {"task_type": "Open-Ended", "questions": asked}
        )
        write_json(folder / task / "annotations" / annotations.format(year), head | {"annotations": answered})


def write_vqav2(folder):
    make_vqa(folder, "vqav2", "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")


def write_okvqa(folder):
    make_vqa(folder, "okvqa", "OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json", raw=True)


def write_textvqa(folder):
    for split, first, number in (("val", 5000, NUM_QUERIES), ("train", 5100, NUM_SUPPORT)):
        rows = []
        for seed in range(first, first + number):
            id = f"{seed:016x}"
            draw(folder / "textvqa" / "train_images" / f"{id}.jpg", seed)
            rows.append({
                **{"question": "what color is it?", "image_id": id, "image_classes": ["Sign"], "question_id": seed},
                **{"flickr_original_url": "", "image_width": 126, "image_height": 126, "set_name": split},
                **{"answers": [color_of(seed)] * 10, "question_tokens": ["what", "color", "is", "it"]},
            })  # fmt: skip
        values = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": rows}
        write_json(folder / "textvqa" / f"TextVQA_0.5.1_{split}.json", values)


def write_vizwiz(folder):
    for split, first, number in (("val", 6000, NUM_QUERIES), ("train", 6100, NUM_SUPPORT)):
        rows = []
        for at in range(number):
            name = f"VizWiz_{split}_{at:08}.jpg"
            draw(folder / "vizwiz" / split / name, first + at)
            blind = at == 0
            answer = "unanswerable" if blind else color_of(first + at)
            rows.append({
                **{"image": name, "question": "What color is this?\n", "answerable": int(not blind)},
                **{"answers": [{"answer_confidence": "yes", "answer": answer}] * 10},
                **{"answer_type": "unanswerable" if blind else "other"},
            })  # fmt: skip
        write_json(folder / "vizwiz" / "Annotations" / f"{split}.json", rows)


def write_gqa(folder):
    for split, first, number in (("testdev", 7000, NUM_QUERIES), ("train", 7100, NUM_SUPPORT)):
        rows = {}
        for seed in range(first, first + number):
            draw(folder / "gqa" / "images" / f"n{seed}.jpg", seed)
            rows[f"2013{seed}"] = {
                **{"semantic": [], "entailed": [], "equivalent": [], "question": "Which color is it?"},
                **{
                    "imageId": f"n{seed}",
                    "isBalanced": True,
                    "groups": {"global": None, "local": "13-it_color"},
                },
                **{"answer": color_of(seed), "fullAnswer": f"It is {color_of(seed)}.", "semanticStr": ""},
                **{
                    "types": {
                        "detailed": "directOf",
                        "semantic": "attr",
                        "structural": ("query", "choose")[seed % 2],
                    }
                },
            }
        write_json(folder / "gqa" / "questions1.2" / f"{split}_balanced_questions.json", rows)


def write_rows(folder: Path, rows, *, split="test"):
    """Write one's own rows; a row's ``image`` is a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in rows:
        if "image" in row:
            name = f"{row['image']}.png"
            draw(folder / name, row["image"])
            row = row | {"image": name}
        lines.append(json.dumps(row))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
