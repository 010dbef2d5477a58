"""Choices of the commands that --help lists; this module imports little, so that --help is quick."""

from __future__ import annotations

from typing import Literal

NewConnector = Literal["c_abstractor", "average_pool", "attention_pool"]  # types of connector for a new model
