"""Parse a recipe of the tiny models and check it against its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vtc.interfaces.token_pruner import TokenPruner, takes_budget
from vtc.plugins import registry
from vtc_recipes.schema import RecipeError, parse
from vtc_recipes.tiny.config import Parts, TinyRecipe
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
        if kind.needs_budget and (lacking := _budget_problem(recipe.vtc)):
            yield f"stages.{number}: {stage.name!r} needs {lacking}"
        if stage.name == "queries" and stage.batch > stage.scenes:
            allowed = f"at most {stage.scenes}, the number of scenes"
            yield f"stages.{number}.batch: expected {allowed}, got {stage.batch}"
        for name in stage.gates:
            if name not in kind.gated:
                metrics = ", ".join(kind.gated)
                yield f"stages.{number}.gates.{name} is unknown; known: {metrics}"
        earlier.append(stage.name)
    if not earlier:
        yield "stages is empty; name at least one"


def _budget_problem(parts: Parts) -> str | None:
    """Return what is missing for training within a budget; None if nothing is."""
    budget, merger = (
        registry.build_budget(parts.budget),
        registry.build_part("merger", parts.merger),
    )
    if budget is None or budget.max_tokens == "auto":
        return "vtc.budget with a number of max_tokens"
    if int(budget.max_tokens) < 2:  # the mark after the video takes one
        return f"a vtc.budget of at least 2 tokens, got {budget.max_tokens}"
    if budget.uses_patches:
        return "another vtc.budget: this one looks at the patches of all frames"
    if not takes_budget(merger) or isinstance(merger, TokenPruner):
        return "a vtc.merger that can make any number of tokens: dfm or mean_pool"
    return None
