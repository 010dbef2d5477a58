"""What a model or a run takes: memory and work."""
