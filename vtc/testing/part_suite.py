"""What the contracts of selectors and mergers have in common."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import torch

from vtc.registry import build_part, spec_of

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class PartContract:
    """What holds for every part, and how the checks make theirs.

    Attributes:
        kind: ``"selector"`` or ``"merger"``.
        part: The part that is checked, as `vtc.wrap` takes it: a name, a mapping
            ``{"name": ..., **options}``, or an instance. It only lends its class and its options;
            every check makes parts of its own.
    """

    kind: ClassVar[str]
    part: ClassVar[Any] = None

    def make(self) -> Any:
        """A new part of the class and with the options of ``part``."""
        given = build_part(self.kind, self.part)
        return type(given)() if given.Config is None else type(given)(given.config)

    def test_registered_name_and_options_make_it_again(self) -> None:
        part = self.make()
        saved = json.loads(json.dumps(spec_of(part)))  # what is saved with a model
        again = build_part(self.kind, saved)
        assert type(again) is type(part)
        assert again.config == part.config
