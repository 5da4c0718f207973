"""Registers the commands of the recipes."""

import vtc


@vtc.hookimpl
def vtc_register_commands() -> dict[str, str]:
    return {
        "demo": "vtc_recipes.demo:demo",
        "niah": "vtc_recipes.niah_cli:niah",
        "recipes": "vtc_recipes.cli:recipes",
        "train": "vtc_recipes.cli:train",
    }
