"""Parse a recipe of the tiny models and check it against its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vtc.plugins import registry
from vtc_recipes.schema import RecipeError, parse
from vtc_recipes.tiny.config import TinyRecipe
from vtc_recipes.tiny.stages import STAGES
from vtc_recipes.tiny.visual import unsupported


def parse_tiny(values: Mapping[str, Any], label: str) -> TinyRecipe:
    """Build a recipe from plain values, such as those of a YAML file.

    Args:
        values: The sections of the recipe.
        label: The name of the recipe in messages.

    Raises:
        RecipeError: The values are invalid; all problems are listed.
    """
    recipe = parse(TinyRecipe, values, label)
    if errors := list(_contradictions(recipe)):
        raise RecipeError(label, errors)
    return recipe


def _contradictions(recipe: TinyRecipe) -> Iterator[str]:
    """Yield problems between values: stages out of order, unknown gates."""
    for problem in unsupported(registry.build_part("merger", recipe.vtc.merger)):
        yield f"vtc.merger: {problem}"
    earlier: list[str] = []
    for number, stage in enumerate(recipe.stages):
        kind = STAGES[stage.name]
        if stage.name in earlier:
            yield f"stages.{number}.name: {stage.name!r} appears twice"
        if missing := [name for name in kind.needs if name not in earlier]:
            yield f"stages.{number}: {stage.name!r} needs the stage {missing[0]!r} before it"
        if kind.needs_budget and not _is_limited(recipe.vtc.budget):
            yield f"stages.{number}: {stage.name!r} needs vtc.budget with a number of max_tokens"
        for name in stage.gates:
            if name not in kind.gated:
                metrics = ", ".join(kind.gated)
                yield f"stages.{number}.gates.{name} is unknown; known: {metrics}"
        earlier.append(stage.name)
    if not earlier:
        yield "stages is empty; name at least one"


def _is_limited(spec: Any) -> bool:
    """Return whether a budget sets a number of tokens itself."""
    budget = registry.build_budget(spec)
    return budget is not None and budget.max_tokens != "auto"
