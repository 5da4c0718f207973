"""Every registered selector and merger passes the public contract, by existing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

import vtc
from vtc.plugins.options import options_of

CONTRACTS = {
    "selector": vtc.testing.SelectorContract,
    "merger": vtc.testing.MergerContract,
}

FEW = {"keyframes": 4, "tokens": 3}
"""Fewer than the samples of the contracts hold, so that something is chosen and merged."""


def settings_of(part: vtc.PartInfo) -> Iterator[dict[str, Any]]:
    """Few keyframes or tokens, else defaults; then each other value of each option with a list."""
    few = {name: value for name, value in FEW.items() if name in part.options}
    yield few
    make = {"selector": vtc.selector, "merger": vtc.merger}[part.kind]
    for name, option in options_of(type(make(part.name))).items():
        if get_origin(option.annotation) is Literal:
            for value in get_args(option.annotation):
                if value != option.default:
                    yield {**few, name: value}


PARTS = [part for kind in CONTRACTS for part in vtc.parts(kind)]
for part in PARTS:
    for options in settings_of(part):
        others = [f"{key}_{value}" for key, value in options.items() if key not in FEW]
        words = "_".join(["test", part.kind, part.name, *others]).split("_")
        title = "".join(word.title() for word in words)
        body = {"part": {"name": part.name, **options}}
        globals()[title] = type(title, (CONTRACTS[part.kind],), body)


def test_all_parts_have_their_contract():
    tested = {cls.part["name"] for title, cls in globals().items() if title.startswith("Test")}
    assert {"dks", "uniform", "dfm", "q_former"} <= tested == {part.name for part in PARTS}


@pytest.mark.parametrize("name", ["SelectorContract", "MergerContract", "AdapterContract"])
def test_contracts_are_public(name):
    assert name in vtc.testing.__all__ and getattr(vtc.testing, name).__doc__
