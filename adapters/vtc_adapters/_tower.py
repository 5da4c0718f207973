"""Separate the vision tower from the projector by recording the projector's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtc.interfaces.video_adapter import VideoAdapter
from vtc.interfaces.video_span import SliceFeatures
from vtc.pipeline.connector import model_with_modules
from vtc_adapters._saliency import SquareTower


class SeparateTower(SquareTower):
    """Families with one projector, whose input is ``[n, P, Dv]`` for n slices."""

    def tower(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the projector's input ``[n, P, Dv]``; see `VideoAdapter.tower`."""
        states, _ = recorded(self, model, pixels)
        return states

    def project(self, model: Any, states: Sequence[Tensor]) -> SliceFeatures:
        """Project ``[n, P, Dv]``; see `VideoAdapter.project`."""
        [projector] = projectors_of(self, model)
        return SliceFeatures(projector(*states))


def projectors_of(adapter: VideoAdapter, model: Any) -> list[nn.Module]:
    """Return the projectors that an adapter names, with module lists flattened."""
    modules = [model.get_submodule(name) for name in adapter.projectors]
    return [
        projector
        for module in modules
        for projector in (module if isinstance(module, nn.ModuleList) else [module])
    ]


def recorded(
    adapter: VideoAdapter, model: Any, pixels: Mapping[str, Tensor], rows_per_token: int = 0
) -> tuple[tuple[Tensor, ...], SliceFeatures]:
    """Encode n slices and return the input of each projector, and the features.

    The projectors are replaced in a view of the model that other threads do not see.

    Args:
        rows_per_token: If not 0, the projectors return token indices in place of projected tokens,
            so that the features show the order of the tokens.
    """
    recorders: list[_Recorder] = []

    def recorder(projector: nn.Module) -> _Recorder:
        recorders.append(_Recorder(projector, rows_per_token))
        return recorders[-1]

    modules: dict[str, nn.Module] = {}
    for name in adapter.projectors:
        module = model.get_submodule(name)
        is_list = isinstance(module, nn.ModuleList)
        modules[name] = (
            nn.ModuleList(recorder(projector) for projector in module)
            if is_list
            else recorder(module)
        )
    features = adapter.encode(model_with_modules(model, modules), pixels)
    return tuple(recorder.states for recorder in recorders), features


class _Recorder(nn.Module):
    """Records the input of a projector."""

    states: Tensor

    def __init__(self, projector: nn.Module, rows_per_token: int) -> None:
        super().__init__()
        self._projector, self._rows = projector, rows_per_token

    def forward(self, states: Tensor) -> Any:
        self.states = states
        if self._rows:
            return torch.arange(len(states) // self._rows, device=states.device)[:, None]
        return self._projector(states)
