"""Load, save and quantize model folders."""
