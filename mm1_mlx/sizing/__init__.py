"""Estimates and measurements of the memory, work and time that a model or a training run needs."""
