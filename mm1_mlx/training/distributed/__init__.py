"""Training by several processes: what they send each other, and what each of them holds."""
