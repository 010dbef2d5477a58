"""Turn PyTorch checkpoints into MLX model folders."""
