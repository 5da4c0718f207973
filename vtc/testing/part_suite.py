"""What the contracts of selectors and mergers have in common."""

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
    """What holds for every part, and how the checks make theirs.

    The checks named in ``basics`` come first. Where one of them fails, all others are skipped and
    name it.

    Attributes:
        kind: ``"selector"`` or ``"merger"``.
        part: The part that is checked, as `vtc.wrap` takes it: a name, a mapping
            ``{"name": ..., **options}``, or an instance. It only lends its class and its options;
            every check makes parts of its own. One check demands that the class is registered.
        basics: Checks without which the others mean nothing; they take no fixtures.
    """

    kind: ClassVar[str]
    part: ClassVar[Any] = None
    basics: ClassVar[tuple[str, ...]] = ("test_part_can_be_made",)

    def make(self) -> Any:
        """A new part of the class and with the options of ``part``."""
        if self.part is None:
            fail(
                f"set part = ... in the class {type(self).__name__}: a name, a mapping "
                f"{{'name': ..., **options}}, or a part, such as vtc.{self.kind}('mine')"
            )
        given = build_part(self.kind, self.part)
        return type(given)() if given.Config is None else type(given)(given.config)

    @pytest.fixture
    def basics_hold(self, request: pytest.FixtureRequest) -> None:
        """Skips a check where a basic one fails; fails it where that one is not run itself."""
        suite: Any = type(self)
        broken = _first_broken(suite)
        if broken is None or request.node.originalname in _until(broken, self.basics):
            return
        run = {item.name for item in request.session.items if item.parent is request.node.parent}
        (pytest.skip if broken in run else fail)(f"first mend: {broken}")

    def test_part_can_be_made(self) -> None:
        self.make()

    @needs_basics
    def test_registered_name_and_options_make_it_again(self) -> None:
        part = self.make()
        name = type(part).__qualname__
        demand(
            is_registered(part),
            f"{name} is registered by no plug-in, so a model that uses it cannot be saved; return "
            f"the class from vtc_register_{self.kind}s of an installed plug-in (The hooks, "
            "docs/plugins.md)",
        )
        spec = spec_of(part)
        try:
            saved = json.loads(json.dumps(spec))  # what is saved with a model
        except (TypeError, ValueError) as error:
            fail(f"{name} has options that are no plain JSON ({cause(error)}); allowed is {PLAIN}")
        config = build_part(self.kind, saved).config
        demand(
            config == part.config,
            f"{name} must keep its options as they were given: {part.config} was saved, and "
            f"became {config} when made again (Part.config, vtc/interfaces/part.py)",
        )


@functools.cache
def _first_broken(contract: type[PartContract]) -> str | None:
    """The first of a contract's basic checks that fails; None where all pass."""
    for name in contract.basics:
        try:
            getattr(contract(), name)()
        # What is wrong is said by that check itself; a third party's code may raise anything.
        except (Exception, pytest.fail.Exception):
            return name
    return None


def _until(last: str, names: Sequence[str]) -> Sequence[str]:
    """The names up to and with one of them."""
    return names[: names.index(last) + 1]
