"""Turn a prompt into numbers that are equal where its content is equal."""

from __future__ import annotations

import hashlib

from mm1_mlx.arrays import to_list
from mm1_mlx.inputs.inputs import Inputs


def content_of(inputs: Inputs, image_token_id: int) -> list[int]:
    """Return a prompt as numbers that are equal where its content is: token ids, and negative numbers for visual
    tokens.

    The number of a visual token is a hash of its picture's digest and its position in the picture.
    """
    content = to_list(inputs.input_ids)
    for places, digest in zip(inputs.image_places, inputs.digests, strict=True):
        for number, position in enumerate(places):
            if content[position] == image_token_id:
                hashed = hashlib.sha256(f"{digest} {number}".encode()).digest()
                content[position] = -1 - int.from_bytes(hashed[:7], "big")
    return content


def shared_length(ours: list[int], theirs: list[int]) -> int:
    """Return how many numbers two contents have in common at their start."""
    return next(
        (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
