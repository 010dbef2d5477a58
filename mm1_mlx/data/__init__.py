"""Read training rows and turn them into packed sequences."""
