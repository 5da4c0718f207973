"""The base of the files of broken selectors, mergers and budgets that test_part_suites.py runs."""

from __future__ import annotations

import pytest

from vtc.plugins import registry
from vtc.plugins.discovery import Claim, Plugin


class Registered:
    """Registers the class of `part` as a plug-in does."""

    registered: type | None = None

    @pytest.fixture(autouse=True)
    def _register(self, monkeypatch):
        cls = self.registered or type(self.part)
        plugin = Plugin("broken", "broken_parts", "broken-parts", "1.0")
        claim = Claim(self.kind, "broken", cls, plugin)
        plugin = Plugin("broken", "broken_parts", "broken-parts", "1.0", claims=(claim,))
        monkeypatch.setattr(registry._registry, "_plugins", [plugin])


class Defect(Registered):
    """Checks the class `broken` in the body of a subclass."""

    broken: type | None = None

    def __init_subclass__(cls):
        cls.part = cls.broken and cls.broken()
