"""AdamW for most weights and Muon for matrices of hidden layers, as one optimiser."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Coefficients of the quintic iteration, for a steep start and singular values of 0.7 to 1.2."""


class Muon(torch.optim.Optimizer):
    """Update matrices by their orthogonalised momentum, in float32.

    After "Muon: An optimizer for hidden layers in neural networks" (Jordan et al., 2024).
    ``torch.optim.Muon`` instead multiplies in bfloat16, which took three quarters of a training
    step on CPUs without hardware support for it, and needs torch 2.9.

    Args:
        matrices: Parameters ``[a, b]``.
        lr: Learning rate; updates are scaled to the magnitude of AdamW's, so both can share it.
        weight_decay: Decoupled weight decay.
        momentum: Decay of the running mean of gradients (Nesterov's form).
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    state = self.state[weight]
                    mean = state.setdefault("momentum_buffer", torch.zeros_like(weight))
                    mean.lerp_(weight.grad, 1 - group["momentum"])
                    update = weight.grad.lerp(mean, group["momentum"])
                    by_shape[weight.shape].append((weight, update))
            for shape, pairs in by_shape.items():
                updates = orthogonalise([update for _, update in pairs])
                scale = 0.2 * math.sqrt(max(shape)) * group["lr"]
                for (weight, _), update in zip(pairs, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update, alpha=-scale)


def orthogonalise(matrices: Sequence[Tensor]) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices by a Newton-Schulz iteration.

    Args:
        matrices: ``[a, b]`` each.

    Returns:
        ``[n, a, b]`` float32, with singular values of about one.
    """
    stack = torch.stack([matrix.float() for matrix in matrices])
    tall = stack.shape[1] > stack.shape[2]
    stack = stack.mT if tall else stack
    stack = stack / stack.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = stack @ stack.mT
        stack = a * stack + (b * gram + c * gram @ gram) @ stack
    result: Tensor = stack.mT if tall else stack
    return result


class AdamWAndMuon(torch.optim.Optimizer):
    """Trains matrices with Muon, which learns look-ups in far fewer steps, the rest with AdamW.

    Args:
        parameters: All parameters; those without gradients are ignored.
        matrices: The parameters that Muon trains.
        rate: Learning rate of both optimisers.
        weight_decay: Weight decay of matrices; vectors have none.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        matrices: Iterable[nn.Parameter],
        rate: float,
        weight_decay: float = 0.01,
    ) -> None:
        muon_weights = [weight for weight in matrices if weight.requires_grad]
        muon_ids = {id(weight) for weight in muon_weights}
        rest = [
            weight for weight in parameters if weight.requires_grad and id(weight) not in muon_ids
        ]
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in rest if weight.ndim > 1]},
            {"params": [weight for weight in rest if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay)
        ]
        if muon_weights:
            self.parts.append(Muon(muon_weights, rate, weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share_groups()

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step of each optimiser."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimisers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of both optimisers."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        """Share the groups, so that setting rates here also sets those of the parts."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
