"""Rows to packed sequences."""
