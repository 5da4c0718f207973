"""Tiny trainings that are examined on few scenes, for tests of what surrounds the training."""

from __future__ import annotations

import pytest

from vtc_recipes.tiny import dual_encoder, pretext, vlm


def examine_little(patch: pytest.MonkeyPatch) -> None:
    """Examine each stage on few scenes and few questions."""
    for module in (pretext, dual_encoder):
        patch.setattr(module, "UNSEEN", 40)
    patch.setattr(vlm, "UNSEEN", 130)
    patch.setattr(vlm, "EXAMINED", 16)
