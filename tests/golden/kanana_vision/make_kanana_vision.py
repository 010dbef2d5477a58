"""Makes this folder with PyTorch and transformers: a tiny Qwen2-VL image encoder under Kanana-1.5-v's names.

Weights and pixels are stored as float16 to keep the files small; all that is computed is float32.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

FOLDER = Path(__file__).parent
CONFIG = {
    "depth": 3,
    "embed_dim": 32,
    "hidden_act": "quick_gelu",
    "in_channels": 3,
    "mlp_ratio": 2,
    "num_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
GRIDS = [(4, 6), (2, 8)]  # patches along height and width

generator = torch.Generator().manual_seed(7101)


def normal(shape, scale, mean=0.0):
    """Return random numbers that float16 holds exactly."""
    return (mean + scale * torch.randn(shape, generator=generator)).half().float()


def pack(picture):
    """Cut (H, W, 3) into the rows that Qwen2-VL reads: blocks of 2 x 2 patches; channel, frame, row, column."""
    p, m, t = (CONFIG[key] for key in ("patch_size", "spatial_merge_size", "temporal_patch_size"))
    h, w = picture.shape[0] // p, picture.shape[1] // p
    x = picture.reshape(h // m, m, p, w // m, m, p, 3).permute(0, 3, 1, 4, 6, 2, 5)
    return x.unsqueeze(5).expand(-1, -1, -1, -1, -1, t, -1, -1).reshape(h * w, -1)


model = Qwen2VisionTransformerPretrainedModel._from_config(
    Qwen2VLVisionConfig(**CONFIG, hidden_size=CONFIG["embed_dim"]), attn_implementation="eager"
).eval()
for name, parameter in model.named_parameters():
    if name.endswith("bias"):
        parameter.data = normal(parameter.shape, 0.1)
    elif "norm" in name or "ln_q" in name:
        parameter.data = normal(parameter.shape, 0.2, mean=1.0)
    else:
        parameter.data = normal(parameter.shape, 1.2 / parameter[0].numel() ** 0.5)

hidden = []
for module in (model.patch_embed, *model.blocks):
    module.register_forward_hook(lambda module, inputs, output: hidden.append(output))
p = CONFIG["patch_size"]
pictures = [normal((h * p, w * p, 3), 1.0) for h, w in GRIDS]
with torch.no_grad():
    model(torch.cat([pack(x) for x in pictures]), torch.tensor([(1, h, w) for h, w in GRIDS]))

arrays = {f"pixels_{i}": picture[None].half() for i, picture in enumerate(pictures)}
for layer, states in enumerate(hidden):
    for i, state in enumerate(states.split([h * w for h, w in GRIDS])):
        arrays[f"hidden_{layer}_{i}"] = state[None].contiguous()
save_file(arrays, FOLDER / "io.safetensors")
weights = {
    f"vision_model.{k}": v.half() for k, v in model.state_dict().items() if not k.startswith("merger.")
}
save_file(weights, FOLDER / "model.safetensors")
(FOLDER / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
