"""Plug-ins that tests write to disk: sources, and the registry that reads them."""

from __future__ import annotations

from vtc.plugins.registry import Registry

SELECTOR = """
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vtc.interfaces.frame_selector import FrameSelector


class Even(FrameSelector):
    '''Takes every other frame.

    Only a test would.
    '''

    @dataclass(frozen=True, kw_only=True)
    class Config:
        stride: int = 2
        share: float = 0.5
        ends: bool = True
        title: str | None = None
        fill: Literal["none", "gaps"] = "none"
        sizes: tuple[int, ...] = (1, 2)

        def __post_init__(self) -> None:
            if self.stride < 1:
                raise ValueError(f"expected stride >= 1, got {self.stride}")

    def select(self, embeddings, query=None, timestamps=None):
        raise NotImplementedError


class Bare(FrameSelector):
    '''Has no options.'''

    def select(self, embeddings, query=None, timestamps=None):
        raise NotImplementedError


class Unfinished(FrameSelector):
    '''Lacks its method.'''


class Stranger:
    '''Is no selector.'''
"""


def registering(mapping: str, hook: str = "vtc_register_selectors", start: str = "") -> str:
    """Return the source of a plug-in whose hook returns ``mapping``."""
    return f"{start}\nimport vtc\n\n@vtc.hookimpl\ndef {hook}():\n    return {mapping}\n"


def assert_shipped_work(registry: Registry) -> None:
    assert registry.build("selector", {"name": "uniform", "keyframes": 3}).config.keyframes == 3
    assert {"dks", "query_guided", "uniform"} <= {i.name for i in registry.parts("selector")}
