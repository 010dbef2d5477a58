"""Training by several processes: what they exchange, and what each of them holds."""
