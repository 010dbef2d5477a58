"""One module for each public layout: a key table and a translation of its configuration."""

from __future__ import annotations

from types import ModuleType

from . import honeybee, hyperclovax, kanana, mm1, qh360vl

SOURCES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (honeybee, hyperclovax, qh360vl, kanana, mm1)
}
