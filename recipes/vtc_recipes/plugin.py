"""Registers the commands of the recipes."""

import vtc


@vtc.hookimpl
def vtc_register_commands() -> dict[str, str]:
    return {"recipes": "vtc_recipes.cli:recipes", "train": "vtc_recipes.cli:train"}
