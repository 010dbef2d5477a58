"""Makes ``interpolate.npz`` with PyTorch: positions of a square grid on another one."""

from pathlib import Path

import numpy as np
import torch

arrays = {}
for side, height, width in ((27, 48, 48), (9, 14, 5), (24, 12, 31)):
    table = np.sin(np.arange(side * side * 3, dtype=np.float32)).reshape(side, side, 3)
    grid = torch.from_numpy(table).permute(2, 0, 1)[None]
    out = torch.nn.functional.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
    arrays[f"{side}_{height}_{width}"] = out[0].permute(1, 2, 0).reshape(-1, 3).numpy()
np.savez_compressed(Path(__file__).with_name("interpolate.npz"), **arrays)
