"""Load a data set of the Hugging Face hub, or what was downloaded of it before."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from typing import Any

from mm1_mlx.checkpoint.hub import describe_unreachable, hub_is_reachable
from mm1_mlx.errors import DataError


def load_hub_rows(source: str, **options: Any) -> Any:
    """Return what ``datasets`` loads; where the hub cannot be reached, what is here already.

    Args:
        source: owner/name, or owner/name:configuration.
        options: for ``datasets.load_dataset``.

    Raises:
        DataError: there is no such data set.
        ImportError: ``datasets`` is not installed.
    """
    import datasets
    from huggingface_hub import constants

    name, _, configuration = source.partition(":")
    offline = not hub_is_reachable()
    with ExitStack() as undone:
        places = (constants, import_module("datasets.config")) if offline else ()
        for place in places:  # otherwise both try again for half a minute
            undone.callback(setattr, place, "HF_HUB_OFFLINE", place.HF_HUB_OFFLINE)
            vars(place)["HF_HUB_OFFLINE"] = True
        try:
            return datasets.load_dataset(name, configuration or None, **options)
        except (
            Exception
        ) as error:  # the hub's client raises many kinds of errors; each means that there is no data
            if offline:
                raise DataError(describe_unreachable(name)) from None
            reason = " ".join(str(error).split())[:400] or type(error).__name__
            raise DataError(
                f"{source} is no folder here, and the hub did not give it: {reason} (A configuration goes behind the "
                "name: owner/name:configuration.)"
            ) from None
