"""The hooks that a plug-in may implement.

A plug-in is a module that an entry point of the group ``vtc`` names. Its hooks are functions
marked with ``vtc.hookimpl``. Each returns a mapping from the name that users type to a class or to
``"module:Class"``, which is imported on first use, so that start-up is fast. Commands and models
are always ``"module:function"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import FrameSelector
    from vtc.interfaces.token_budget import TokenBudget
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.interfaces.video_adapter import VideoAdapter

hookspec = pluggy.HookspecMarker("vtc")
hookimpl = pluggy.HookimplMarker("vtc")


@hookspec
def vtc_register_selectors() -> Mapping[str, type[FrameSelector] | str]:  # type: ignore[empty-body]
    """Return frame selectors by name: ``{"dks": "vtc_selectors.dks:DKS"}``."""


@hookspec
def vtc_register_mergers() -> Mapping[str, type[TokenMerger] | str]:  # type: ignore[empty-body]
    """Return token mergers by name: ``{"dfm": "vtc_mergers.dfm:DFM"}``."""


@hookspec
def vtc_register_budgets() -> Mapping[str, type[TokenBudget] | str]:  # type: ignore[empty-body]
    """Return token budgets by name: ``{"even": "vtc_mergers.budgets:Even"}``."""


@hookspec
def vtc_register_adapters() -> Mapping[str, type[VideoAdapter] | str]:  # type: ignore[empty-body]
    """Return adapters by model type: ``{"llava_onevision": "my_adapters:LlavaOnevision"}``."""


@hookspec
def vtc_register_commands() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return commands of ``vtc`` by name: ``{"train": "vtc_recipes.commands:train"}``.

    Each is a function for typer, or a ``typer.Typer``. ``vtc --help`` imports its module, so the
    module should import torch and transformers inside functions only."""


@hookspec
def vtc_register_models() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return models by name, for ``vtc.open_model``: ``{"tiny": "my_adapters.tiny:build"}``.

    Each function returns a folder, or a model (or its configuration) and its processor. The text
    after a colon is its argument: ``tiny:qwen2_vl`` calls ``build("qwen2_vl")``.
    """
