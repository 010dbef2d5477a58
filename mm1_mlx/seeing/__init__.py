"""Tables and drawings of a model's parts, of how it cuts a picture, and of what its answers attend to."""
