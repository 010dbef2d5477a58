"""The data sets of captions that MM1 reports: COCO, NoCaps, TextCaps, as they were published.

Sources: Lin et al., "Microsoft COCO" (arXiv:1405.0312), in the splits of Karpathy and Fei-Fei (arXiv:1412.2306);
Agrawal et al., "nocaps" (arXiv:1812.08658); Sidorov et al., "TextCaps" (arXiv:2003.12462).
"""

from __future__ import annotations

from collections import defaultdict

from mm1_mlx.evaluation.tasks.places import Places, expect_layout, read_json
from mm1_mlx.evaluation.tasks.task import Item, Split, join_lines

KARPATHY = {"queries": ("test",), "support": ("train", "restval")}


def read_coco(data: str | None, split: Split) -> list[Item]:
    """Read COCO's ``dataset_coco.json``: its test split, or its train split with the one called restval."""
    places = Places(data, "coco")
    path = places.find_file("dataset_coco.json")
    with expect_layout(path, "Karpathy's COCO"):
        return [
            Item(
                str(image["cocoid"]),
                places.find_pictures(image["filepath"]) / image["filename"],
                tuple(sentence["raw"] for sentence in image["sentences"]),
                shown=join_lines(image["sentences"][0]["raw"]),
            )
            for image in read_json(path)["images"]
            if image["split"] in KARPATHY[split]
        ]


def read_nocaps(data: str | None, split: Split) -> list[Item]:
    """Read NoCaps' ``nocaps_val_4500_captions.json`` with its domains; worked examples come from COCO."""
    if split == "support":
        return read_coco(data, "support")
    places = Places(data, "nocaps")
    path = places.find_file("nocaps_val_4500_captions.json")
    values, captions = read_json(path), defaultdict(list)
    with expect_layout(path, "NoCaps' validation captions"):
        for annotation in values["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
        folder = places.find_pictures("val")
        return [
            Item(
                str(image["id"]),
                folder / image["file_name"],
                tuple(captions[image["id"]]),
                group=image["domain"],
            )
            for image in values["images"]
        ]


def read_textcaps(data: str | None, split: Split) -> list[Item]:
    """Read ``TextCaps_0.1_val.json`` or ``…_train.json``, which have several rows for each picture, one a caption."""
    places = Places(data, "textcaps", "textvqa")
    path = places.find_file(f"TextCaps_0.1_{'val' if split == 'queries' else 'train'}.json")
    captions: dict[str, list[str]] = defaultdict(list)
    with expect_layout(path, "TextCaps"):
        for row in read_json(path)["data"]:
            captions[row["image_id"]].append(row["caption_str"])
    folder = places.find_pictures("train_images")  # the pictures of validation are here too
    return [
        Item(name, folder / f"{name}.jpg", tuple(found), shown=join_lines(found[0]))
        for name, found in captions.items()
    ]
