"""VidCom2: keep the tokens least like the mean of the video and of their frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import FLOAT32_MAX, FLOAT32_TINY, require_number
from vtc.interfaces.token_budget import FrameStatistics, TokenBudget, VideoPatches
from vtc.interfaces.token_pruner import TokenPruner
from vtc_mergers._arithmetic import exact_dtype
from vtc_mergers._checks import check_patches
from vtc_mergers._pruning import share_to_keep
from vtc_mergers._sharing import counts_by_weight, other_frames, patches_of, require_max_tokens

_WIDTHS = tuple(2.0**k for k in range(-3, 2))
"""The alphas of the Gaussians, exp(-distance^2 / (2 alpha))."""


class Survey(NamedTuple):
    """What is compared in a video: half of its channels, and their mean.

    Attributes:
        channels: ``[D // 2]`` int64, those of the lowest variance over all tokens.
        mean: ``[D // 2]``, the mean of all tokens' directions in these channels.
    """

    channels: Tensor
    mean: Tensor


class VidCom2(TokenPruner):
    """Keeps the tokens of a frame that are least like the mean of the video and of the frame.

    VidCom2 (Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for
    Video Large Language Models", EMNLP 2025). Tokens are compared in the half of the channels whose
    variance over the video is lowest, each scaled to length one there. A token's likeness to a mean
    is the sum of five Gaussians of its distance, alpha = 2^-3 to 2^1. A frame keeps the tokens with
    the lowest sum of the likeness to the video's mean and to the frame's. With the budget
    ``vidcom2``, frames unlike the video keep more. Ties go to the earlier token. Kept tokens stay
    unchanged and in order. Needs no query.

    The means are those of all frames, keyframes included. Where a frame is merged without its
    video, as in ``forward``, it is the whole video.

    About 8 M D multiplications per frame in two passes over the video and one over the frame;
    memory O(M D) beside the input.
    """

    source = "VidCom2, EMNLP 2025"
    query_source = None
    uses_reference = False
    uses_survey: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``vidcom2``.

        Attributes:
            share: In [0, 1], the share of its tokens that a frame keeps without a budget, at least
                one; the authors'.
        """

        share: float = 0.25

        def __post_init__(self) -> None:
            require_number("share", self.share, 0, 1)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 3.5 * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return 2 * sizes.M * sizes.D

    def survey(self, patches: VideoPatches) -> Survey:
        return patches.once("vidcom2", survey_of)

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
        survey: Any = None,
    ) -> list[Tensor]:
        check_patches("vidcom2", patches)
        counts = share_to_keep(patches, self.config.share, tokens)
        kept = []
        for frame, count in zip(patches.detach(), counts, strict=True):
            own = survey_of([frame[None]]) if survey is None else survey
            directions = _directions(frame, own)
            score = _likeness(directions, own.mean) + _likeness(directions, directions.mean(dim=0))
            kept.append(score.argsort(stable=True)[:count].sort().values)
        return kept


class VidCom2Budget(TokenBudget):
    """Gives frames unlike the video's mean more tokens.

    See `VidCom2`. With v, the mean likeness of a frame's tokens to the video's mean, and p =
    softmax(-v / temperature) over the frames, the shares are in proportion to 1 + p - mean p, at
    most M tokens a frame. The authors round each frame's number; here the total is exact, and the
    largest remainders are rounded up. Keyframes have no share.

    Three passes over the video, which the pruner ``vidcom2`` shares; memory O(N + D).
    """

    source = VidCom2.source
    uses_patches: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``vidcom2``.

        Attributes:
            max_tokens: As for ``even``.
            temperature: Of the softmax over frames, above 0; the authors'.
        """

        max_tokens: int | Literal["auto"] = "auto"
        temperature: float = 0.01

        def __post_init__(self) -> None:
            require_max_tokens(self.max_tokens)
            require_number("temperature", self.temperature, FLOAT32_TINY, FLOAT32_MAX)

    config: Config

    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        patches = patches_of(statistics, "vidcom2")
        likeness = patches.once("vidcom2 frames", _likeness_of_frames)[other_frames(statistics)]
        share = (-likeness / self.config.temperature).softmax(dim=0)
        return counts_by_weight(statistics, total, 1 + share - share.mean())


def survey_of(video: VideoPatches | Sequence[Tensor]) -> Survey:
    """Return the channels of a video and their mean.

    Sums are of whole frames in float64, so that chunks do not matter, and stay on their device.

    Args:
        video: Chunks ``[n, M, D]``, iterated over twice.
    """
    count = 0
    for frame in _frames(video):
        exact = frame.to(exact_dtype(frame))
        size, mean = len(exact), exact.mean(dim=0)
        squares = (exact - mean).square().sum(dim=0).double()
        mean = mean.double()
        if count == 0:
            count, centre, scatter = size, mean, squares
            continue
        step = mean - centre
        scatter = scatter + squares + step.square() * (count * size / (count + size))
        count, centre = count + size, centre + step * (size / (count + size))
    half = max(1, len(scatter) // 2)
    channels = scatter.argsort(stable=True)[:half]
    total, of_channels = torch.zeros_like(scatter[:half]), Survey(channels, frame[0])
    for frame in _frames(video):
        total += _directions(frame, of_channels).sum(dim=0).double()
    return Survey(channels, (total / count).to(exact_dtype(frame)))


def _likeness_of_frames(patches: VideoPatches) -> Tensor:
    """Return ``[N]`` float64, the mean likeness of each frame's tokens to the video's mean."""
    survey = patches.once("vidcom2", survey_of)
    means = [
        _likeness(_directions(frame, survey), survey.mean).mean().double()
        for frame in _frames(patches)
    ]
    return torch.stack(means).cpu()


def _frames(video: VideoPatches | Sequence[Tensor]) -> Any:
    return (frame for chunk in video for frame in chunk)


def _directions(frame: Tensor, survey: Survey) -> Tensor:
    """Return tokens ``[M, D]`` in the channels of a video, scaled to length one."""
    return F.normalize(frame[:, survey.channels].to(exact_dtype(frame)), dim=-1)


def _likeness(directions: Tensor, mean: Tensor) -> Tensor:
    """Return the likeness ``[M]`` of directions ``[M, C]`` and a mean ``[C]``."""
    squares = (directions - mean).square().sum(dim=-1)
    likeness: Tensor = sum((-squares / (2 * width)).exp() for width in _WIDTHS)  # type: ignore
    return likeness
