"""The hooks that a plug-in may implement.

A plug-in is a module named by an entry point of the group ``vtc``. It marks its functions with
``vtc.hookimpl``; each returns a mapping from the name that users type to the class, or to
``"module:Class"``, which is imported at its first use and so keeps start-up quick. Commands and
models are always ``"module:function"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import FrameSelector
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.interfaces.video_adapter import VideoAdapter

hookspec = pluggy.HookspecMarker("vtc")
hookimpl = pluggy.HookimplMarker("vtc")


@hookspec
def vtc_register_selectors() -> Mapping[str, type[FrameSelector] | str]:  # type: ignore[empty-body]
    """Frame selectors by name: ``{"dks": "vtc_selectors.dks:DKS"}``."""


@hookspec
def vtc_register_mergers() -> Mapping[str, type[TokenMerger] | str]:  # type: ignore[empty-body]
    """Token mergers by name: ``{"dfm": "vtc_mergers.dfm:DFM"}``."""


@hookspec
def vtc_register_adapters() -> Mapping[str, type[VideoAdapter] | str]:  # type: ignore[empty-body]
    """Adapters by ``config.model_type``: ``{"llava_onevision": "my_adapters:LlavaOnevision"}``."""


@hookspec
def vtc_register_commands() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Commands of ``vtc`` by name: ``{"train": "vtc_recipes.training.cli:train"}``.

    Each is a function that typer understands. Its module is imported for ``vtc --help``, so it
    should import little."""


@hookspec
def vtc_register_models() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Models by name, beside folders and the hub: ``{"tiny": "my_adapters.tiny:build"}``.

    Each function returns a folder, or a model (or the configuration of one) with its processor.
    A name with a colon passes the rest: ``tiny:qwen2_vl`` calls ``build("qwen2_vl")``.
    """
