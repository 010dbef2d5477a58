"""Encode pictures as visual tokens."""
