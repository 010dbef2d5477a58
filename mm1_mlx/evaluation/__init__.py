"""Measuring a model: metrics of captions and answers."""
