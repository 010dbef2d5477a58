"""Files: written whole or not at all, JSON, tensors, and what tells weights apart."""
