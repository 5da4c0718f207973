"""Assign parameters to the components of a model, and set how each component trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from vtc.pipeline.toolkit import Toolkit
from vtc.wrapped.access import toolkit_of
from vtc_recipes.training.config import Train

PARTS = ("merger", "connector", "projector", "vision_tower", "language_model")


def modules_of(toolkit: Toolkit) -> dict[str, tuple[str, ...]]:
    """Return the module names of each part; the language model is everything else."""
    return {
        "merger": ("vtc.merger",),
        "connector": ("vtc.connector",),
        "projector": toolkit.adapter.projectors,
        "vision_tower": toolkit.adapter.vision_towers,
    }


def part_of(name: str, toolkit: Toolkit) -> str:
    """Return the part to which a parameter or module of the wrapped model belongs.

    Args:
        name: As in ``model.named_parameters()``, with or without peft's prefix.
    """
    name = name.removeprefix("base_model.model.")
    for part, modules in modules_of(toolkit).items():  # projectors first: a tower may contain them
        if any(name == module or name.startswith(f"{module}.") for module in modules):
            return part
    return "language_model"


def set_training(model: Any, train: Train) -> Any:
    """Set ``requires_grad`` of each part and add LoRA, as specified by a recipe.

    Returns:
        The model, or a peft model around it if a part trains with LoRA.

    Raises:
        ValueError: A part that should train has no parameters, or no linear layers for LoRA.
    """
    toolkit = toolkit_of(model)
    ways = {name: part.how for name, part in train.parts()}
    parts: set[str] = set()
    for name, parameter in model.named_parameters():
        part = part_of(name, toolkit)
        parts.add(part)
        parameter.requires_grad_(ways[part] == "full")
    for part, how in ways.items():
        if how != "frozen" and part not in parts:
            raise ValueError(
                f"train.{part}.how: {how!r}: {_why_empty(part, toolkit)}, so there is nothing to "
                "train; set it to frozen"
            )
    if "lora" not in ways.values():
        return model
    return _with_lora(model, toolkit, train, ways)


def parameter_groups(model: nn.Module, train: Train, weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimiser's parameter groups: one per part, with its learning rate.

    Vectors and scalars (biases, norms) get no weight decay.
    """
    toolkit = toolkit_of(model)
    rates = {name: part.learning_rate for name, part in train.parts()}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in _trainable(model):
        groups.setdefault((part_of(name, toolkit), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates[part],
            "weight_decay": weight_decay if decays else 0.0,
            "part": part,
        }
        for (part, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _with_lora(model: Any, toolkit: Toolkit, train: Train, ways: Mapping[str, str]) -> Any:
    import peft

    linear = {
        part: [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and part_of(name, toolkit) == part
        ]
        for part, how in ways.items()
        if how == "lora"
    }
    # Skip the head: it is as large as the embeddings, and often tied to them.
    head = model.get_output_embeddings()
    targets = [
        name for names in linear.values() for name in names if model.get_submodule(name) is not head
    ]
    for part, names in linear.items():
        if not names:
            raise ValueError(f"train.{part}.how: 'lora': it has no linear layers; train it in full")
    full = [
        name for part, how in ways.items() if how == "full" for name in modules_of(toolkit)[part]
    ]
    config = peft.LoraConfig(
        r=train.lora.rank,
        lora_alpha=train.lora.alpha,
        lora_dropout=train.lora.dropout,
        target_modules=targets,
        modules_to_save=full or None,
    )
    return peft.get_peft_model(model, config)


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _why_empty(part: str, toolkit: Toolkit) -> str:
    if part == "merger":
        return f"merger {toolkit.name_of(toolkit.merger)!r} has no parameters"
    return f"adapter {type(toolkit.adapter).__name__} names no {part}"
