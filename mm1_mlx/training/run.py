"""The identity of a run, which its checkpoints hold: only the same run can be resumed from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """A run as ``run.json`` holds it."""

    recipe: Recipe
    options: RunOptions  # not part of the identity: a resumed run may have other options
    task: dict[str, Any]  # the rest of the identity, by name: parts that learn, the model, processes

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain JSON values."""
        values = {"settings": self.recipe.to_dict(), "options": self.options.to_dict()} | self.task
        return json.loads(json.dumps(values))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        """Build a run from what ``to_dict`` returned, in this version or in an earlier one.

        Earlier versions had the options among the settings, and had fewer of both.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        settings = {**values["settings"], **values.get("options", {})}
        watched = {field.name for field in fields(RunOptions)}
        return cls(
            Recipe.from_dict({name: value for name, value in settings.items() if name not in watched}),
            RunOptions.from_dict({name: value for name, value in settings.items() if name in watched}),
            {name: value for name, value in values.items() if name not in ("settings", "options")},
        )

    def differences(self, now: Run) -> list[str]:
        """List why ``now`` is not this run, so that it cannot be resumed; asking for more updates is no reason."""
        was, now_is = self.to_dict(), now.to_dict()
        if now.recipe.iters > self.recipe.iters:
            del was["settings"]["iters"], now_is["settings"]["iters"]
        del was["options"], now_is["options"]
        weights = ["it began with other weights"] * (was.pop("base", None) != now_is.pop("base", None))
        return weights + differences(was, now_is)


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """List the values that differ between two nested mappings, each by its dotted name."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*there, *here])
        return [
            line
            for key in keys
            for line in differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if there == here else [f"{name} was {there!r} and is {here!r}"]
