"""Tuning and pre-training: rows of data in, weights that know them out."""
