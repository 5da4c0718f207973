"""AdamW for most weights, Muon for matrices of hidden layers, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class AdamWAndMuon(torch.optim.Optimizer):
    """Muon orthogonalises the update of a matrix, and finds how to look things up in a video in a
    fraction of AdamW's steps.

    Args:
        parameters: All that is trained; those that need no gradient are left out.
        matrices: Those of them that Muon trains.
        rate: The learning rate of both.
        weight_decay: Of matrices; vectors are not decayed.

    Raises:
        RuntimeError: There are matrices, and this torch has no Muon.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        matrices: Iterable[nn.Parameter],
        rate: float,
        weight_decay: float = 0.01,
    ) -> None:
        square = [weight for weight in matrices if weight.requires_grad]
        taken = {id(weight) for weight in square}
        kept = [weight for weight in parameters if weight.requires_grad and id(weight) not in taken]
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in kept if weight.ndim > 1]},
            {"params": [weight for weight in kept if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay)
        ]
        if square:
            self.parts.append(_muon(square, rate, weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share_groups()

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the states of both."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        """A schedule that sets rates in these groups sets those of the parts."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def _muon(matrices: list[nn.Parameter], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(f"torch {torch.__version__} has no Muon: torch 2.9 or newer is needed")
    # Updates as large as AdamW's, so that both take one learning rate.
    return torch.optim.Muon(
        matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
