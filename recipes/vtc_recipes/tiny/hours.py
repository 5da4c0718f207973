"""The stage that trains on whole videos of hours, within a budget of visual tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vtc.plugins import registry
from vtc_recipes.tiny.config import StageSettings, TinyRecipe
from vtc_recipes.tiny.curriculum import HOURS, draw_budgeted_hours, draw_format, draw_long_format
from vtc_recipes.tiny.evidence import Review
from vtc_recipes.tiny.world import Format

EXAMINED = 60
"""Number of videos of 10,000 frames for the metric."""


class Hours(Review):
    """Answers to all questions, and to those about whole videos of up to 10,000 frames.

    The recipe's budget sets the tokens of their frames, so they are as short for the language model
    as videos of a few hundred frames, and look as they do in use.
    """

    name = "hours"
    needs = ("queries", "review")
    needs_budget = True
    gated = (*Review.gated, "10000")
    old = 0.75

    def __init__(self, settings: StageSettings, recipe: TinyRecipe, folder: Path) -> None:
        super().__init__(settings, recipe, folder)
        budget = registry.build_budget(recipe.vtc.budget)
        if budget is None:
            raise ValueError("the stage 'hours' needs vtc.budget, got None")
        self.budget = budget

    def before(self, recipe: TinyRecipe) -> str:
        """Return the name of the stage to start from."""
        return self.needs[-1]

    def old_format(self, rng: np.random.Generator) -> Format:
        """Draw the format of a batch of old questions; most videos last hours."""
        chance = rng.random()
        if chance < 0.6:
            return draw_budgeted_hours(rng, self.budget)
        return draw_long_format(rng) if chance < 0.8 else draw_format(rng, 0.6)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Add the accuracy on whole videos of 10,000 frames, in total and by kind."""
        form = replace(HOURS, keyframes=8, kept=0, budget=self.budget)
        return {**super().measure(), **self.examine(form, EXAMINED)}
