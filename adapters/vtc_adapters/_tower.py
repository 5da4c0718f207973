"""Separate the vision tower from the projector: record what the projector is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtc.interfaces.video_adapter import VideoAdapter
from vtc.interfaces.video_span import SliceFeatures
from vtc.pipeline.connector import model_with_modules


class SeparateTower(VideoAdapter):
    """Families with one projector, which is given ``[n, P, Dv]`` of n slices."""

    def tower(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return ``[n, P, Dv]``, what the projector is given; see `VideoAdapter.tower`."""
        states, _ = recorded(self, model, pixels)
        return states

    def project(self, model: Any, states: Sequence[Tensor]) -> SliceFeatures:
        """Project ``[n, P, Dv]``; see `VideoAdapter.project`."""
        [projector] = projectors_of(self, model)
        return SliceFeatures(projector(*states))


def projectors_of(adapter: VideoAdapter, model: Any) -> list[nn.Module]:
    """Return the projectors that an adapter names, those of a list one by one."""
    modules = [model.get_submodule(name) for name in adapter.projectors]
    return [
        projector
        for module in modules
        for projector in (module if isinstance(module, nn.ModuleList) else [module])
    ]


def recorded(
    adapter: VideoAdapter, model: Any, pixels: Mapping[str, Tensor], rows_per_token: int = 0
) -> tuple[tuple[Tensor, ...], SliceFeatures]:
    """Return what each projector is given while n slices are encoded, and their features.

    The projectors are replaced in a view of the model, which no other thread sees.

    Args:
        rows_per_token: If given, the projectors return the numbers of their tokens in place of
            the projected tokens, so that the features show their order.
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
            nn.ModuleList(recorder(each) for each in module) if is_list else recorder(module)
        )
    features = adapter.encode(model_with_modules(model, modules), pixels)
    return tuple(each.states for each in recorders), features


class _Recorder(nn.Module):
    """Keep what a projector is given."""

    states: Tensor

    def __init__(self, projector: nn.Module, rows_per_token: int) -> None:
        super().__init__()
        self._projector, self._rows = projector, rows_per_token

    def forward(self, states: Tensor) -> Any:
        self.states = states
        if self._rows:
            return torch.arange(len(states) // self._rows, device=states.device)[:, None]
        return self._projector(states)
