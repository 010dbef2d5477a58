"""MM1's pre-training: its rule for learning rates, its stages, and what each stage learns."""
