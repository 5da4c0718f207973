"""The commands ``vtc train`` and ``vtc recipes``."""

from __future__ import annotations


def train(recipe: str) -> None:
    """Train a wrapped model as a recipe says."""


def recipes() -> None:
    """List the shipped recipes."""
