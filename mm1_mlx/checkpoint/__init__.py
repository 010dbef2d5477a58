"""Load, save and quantize model folders."""

from mm1_mlx.checkpoint.load import load
from mm1_mlx.checkpoint.quantize import quantize
from mm1_mlx.checkpoint.save import save

__all__ = ["load", "quantize", "save"]
