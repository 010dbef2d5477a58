"""Tuning and pre-training: they turn rows of data into trained weights."""
