"""Register the commands of the recipes."""

import vtc


@vtc.hookimpl
def vtc_register_commands() -> dict[str, str]:
    return {
        "analyse": "vtc_recipes.analysis.cli:app",
        "ablate": "vtc_recipes.ablation.cli:ablate",
        "convert-vilamp": "vtc_recipes.vilamp.cli:convert_vilamp",
        "demo": "vtc_recipes.demo:demo",
        "evaluate": "vtc_recipes.evaluation.cli:app",
        "niah": "vtc_recipes.evaluation.niah_cli:niah",
        "recipes": "vtc_recipes.commands:recipes",
        "report": "vtc_recipes.ablation.cli:report",
        "train": "vtc_recipes.commands:train",
    }


@vtc.hookimpl
def vtc_register_models() -> dict[str, str]:
    return {"shipped": "vtc_recipes.tiny.trained:shipped_model"}
