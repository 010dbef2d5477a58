"""Make honeybee/, hyperclovax_vision/ and qh360vl/ from the whole reference runs: ``python trim.py ORIGINALS``.

Weights, configurations and pictures are copied whole. Of io.safetensors stay the prompts, the features that the
connector reads, its pooled and last values, and what the decoder makes of them. Pixels go, since they can be made
again: pixels.json holds the SHA-256 of the pictures' views as uint8 or, for Honeybee, the seed of its noise, which
is torch.randn's, and how many numbers of it were used up before.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

KEPT = (
    *("input_ids", "image_sizes_wh", "image_features", "lm.inputs_embeds", "lm.logits", "greedy"),
    *("connector.after_pool_nchw", "connector.output", "ctt.after_pos_emb_nchw", "ctt.output", "ori.output"),
)
FEATURES = {  # the hidden state that the connector reads; 360VL's was not kept
    "honeybee/legacy_fp32_bin": "vision.hidden_3",
    "honeybee/refactor_fp32_safetensors": "vision.hidden_3",
    "hyperclovax_vision/tiny_siglip_anyres": "vision.hidden_3",
    "hyperclovax_vision/tiny_siglip_no_unpad": "vision.hidden_2",
    "qh360vl/tiny_two_projectors": "",
}
NOISE = {
    "honeybee/legacy_fp32_bin": {"seed": 3106, "skip": 32},
    "honeybee/refactor_fp32_safetensors": {"seed": 3107, "skip": 0},
}
CLIP_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
CLIP_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def trim(name, originals, folder):
    """Write one trimmed folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in (originals / name).rglob("*"):
        if path.is_file() and path.name not in ("io.safetensors", "meta.json"):
            target = folder / path.relative_to(originals / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    run = load_file(originals / name / "io.safetensors")
    kept = {key: value for key, value in run.items() if key == FEATURES[name] or key.startswith(KEPT)}
    save_file(kept, folder / "io.safetensors")
    if name in NOISE:
        pixels = NOISE[name] | {"shape": run["pixel_values"].shape}
    else:
        views = {key: value for key, value in run.items() if key.startswith("views_u8")}
        views = views or {"views_u8_0": to_levels(run["windows_pixel_values"])}
        pixels = {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in views.items()}
    (folder / "pixels.json").write_text(json.dumps(pixels, indent=1) + "\n", encoding="utf-8")


def to_levels(pixels):
    """Turn CLIP's normalised pixels, channels first, into uint8, channels last."""
    values = 255 * (pixels.transpose(0, 2, 3, 1) * CLIP_STD + CLIP_MEAN)
    return np.round(values).astype(np.uint8)


if __name__ == "__main__":
    for name in FEATURES:
        trim(name, Path(sys.argv[1]), Path(__file__).parent / name)
