"""Damage done to JSON: a value that is another's, or the bytes of the file."""

import json
from random import Random
from typing import Any

from mutations import mutate

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1.5, -0.0, float("nan"), float("inf")),
    *(
        "",
        "x",
        "a\0b",
        "\x1b[31m",
        "\ud800",
        "../../x",
        "/",
        "é" * 300,
        [],
        [[]],
        [None],
        ["x"],
        {},
        {"x": 1},
    ),
)


def damage_json(data: bytes, rng: Random) -> bytes:
    """Return the JSON text ``data`` with one value replaced, removed or added, or with damaged bytes."""
    if rng.random() < 0.3:
        return mutate(data, rng)
    values = json.loads(data)
    for _ in range(rng.randint(1, 2)):
        values = _change(values, rng)
    return json.dumps(values).encode()


def _change(value: Any, rng: Random) -> Any:
    inside = isinstance(value, dict | list) and len(value) > 0
    if not inside or rng.random() < 0.1:
        return rng.choice(NASTY)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key, how = rng.choice(keys), rng.random()
    if how < 0.15:
        del value[key]
    elif how < 0.25 and isinstance(value, dict):
        value[rng.choice(("extra", "", key + "s"))] = rng.choice(NASTY)
    else:
        value[key] = _change(value[key], rng)
    return value
