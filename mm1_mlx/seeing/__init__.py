"""What a model is, what it sees of a picture, and where it looks: tables and drawings."""
