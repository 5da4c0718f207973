"""The base class of the contracts of selectors, mergers and budgets."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch

from vtc.plugins.discovery import cause
from vtc.plugins.options import PLAIN
from vtc.plugins.registry import build_part, is_registered, spec_of
from vtc.testing._demands import demand, fail

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

needs_basics = pytest.mark.usefixtures("basics_hold")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class PartContract:
    """The checks of every part, and the fixtures that make parts.

    If a check in ``basics`` fails, the checks after it are skipped with its name.

    Attributes:
        kind: ``"selector"``, ``"merger"`` or ``"budget"``.
        part: The part, as `vtc.wrap` takes it: a name, a mapping ``{"name": ..., **options}``, or
            an instance. Every check makes a new part of its class and options. One check demands
            that the class is registered.
        basics: The names of checks on which all others depend; they take no fixtures.
    """

    kind: ClassVar[str]
    part: ClassVar[Any] = None
    basics: ClassVar[tuple[str, ...]] = ("test_part_can_be_made",)

    def make(self) -> Any:
        """Make a new part with the class and the options of ``part``."""
        if self.part is None:
            fail(
                f"set part = ... in the class {type(self).__name__}: a name, a mapping "
                f"{{'name': ..., **options}}, or a part, such as vtc.{self.kind}('mine')"
            )
        part = build_part(self.kind, self.part)
        return type(part)() if part.Config is None else type(part)(part.config)

    @pytest.fixture
    def basics_hold(self, request: pytest.FixtureRequest) -> None:
        """Skip a check if a basic one fails; fail it if that one is not part of this run."""
        suite: Any = type(self)
        broken = _first_broken(suite)
        if broken is None or request.node.originalname in _until(broken, self.basics):
            return
        run = {item.name for item in request.session.items if item.parent is request.node.parent}
        (pytest.skip if broken in run else fail)(f"fix this first: {broken}")

    def test_part_can_be_made(self) -> None:
        self.make()

    @needs_basics
    def test_registered_name_and_options_make_it_again(self) -> None:
        part = self.make()
        name = type(part).__qualname__
        demand(
            is_registered(part),
            f"{name} is not registered by any plug-in, so a model that uses it cannot be saved; "
            f"return the class from vtc_register_{self.kind}s of an installed plug-in (The hooks, "
            "docs/plugins.md)",
        )
        spec = spec_of(part)
        try:
            saved = json.loads(json.dumps(spec))
        except (TypeError, ValueError) as error:
            fail(f"options of {name} must be plain JSON, {PLAIN}; got {cause(error)}")
        config = build_part(self.kind, saved).config
        demand(
            config == part.config,
            f"{name} must not change its options: {part.config} was saved and loaded as {config} "
            "(Part.config, vtc/interfaces/part.py)",
        )


@functools.cache
def _first_broken(contract: type[PartContract]) -> str | None:
    """Return the first basic check that fails; None if all pass."""
    for name in contract.basics:
        try:
            getattr(contract(), name)()
        # The check itself reports the failure; third-party code may raise anything.
        except (Exception, pytest.fail.Exception):
            return name
    return None


def _until(last: str, names: Sequence[str]) -> Sequence[str]:
    """Return the names up to and including ``last``."""
    return names[: names.index(last) + 1]
