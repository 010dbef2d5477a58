"""MM1's pre-training: its rule for rates, its stages, and what each of them learns."""
