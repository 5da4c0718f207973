"""Register the model ``vtc`` in lmms-eval: ``lmms-eval --model vtc --model_args pretrained=M``."""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """Return the model's entry for the registry of lmms-eval (group ``lmms_eval.models``)."""
    from lmms_eval.models.registry_v2 import ModelManifest

    chat = "vtc_recipes.evaluation.harness.model.Vtc"
    return [ModelManifest(model_id="vtc", chat_class_path=chat)]
