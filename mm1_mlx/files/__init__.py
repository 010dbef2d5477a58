"""Read and write files: JSON, YAML, tensors, and digests that identify weights."""
