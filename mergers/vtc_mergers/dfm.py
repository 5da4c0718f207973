"""Differential feature merging: patches that answer the query and that the keyframe lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import FLOAT32_MAX, FLOAT32_TINY, require, require_number
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import apply, cosines, frames_at_once, weighted_sum
from vtc_mergers._checks import (
    check_patches,
    check_query,
    check_reference,
    not_built,
)


class DFM(TokenMerger):
    """Averages a frame's patches, those on the query and new since the keyframe weighing most.

    Eq. 5-10 of ViLAMP. The saliency of patch m is its cosine with the query less
    ``redundancy_weight`` times its cosine with patch m of the nearest preceding keyframe (nothing
    is subtracted before the first keyframe); the weights are the softmax of the saliencies over
    ``temperature``. They sum to one, so the division of Eq. 9 has no effect and is left out.

    With ``projection="learned"`` the cosines are taken after linear maps, as in the authors'
    released code; with ``reference="released"`` and ``normalise_query=False`` as well, the result
    is that code's. It also learns the temperature, which is an option here. ``linear_k`` and
    ``linear_ik`` have a zero gradient when no frame of a call has a reference.

    Time O(n M D), learned O(n M D^2). On the CPU frames are merged one after another, for the same
    result whatever the chunk, elsewhere a few at once: memory is O(M D) beside the input, and no
    M x M matrix is formed.
    """

    source = "ViLAMP, ICML 2025, Eq. 5-10"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``dfm``; the defaults are the paper's.

        Attributes:
            redundancy_weight: lambda, at least 0: how much likeness to the keyframe counts
                against a patch.
            temperature: alpha, above 0: small takes few patches, large approaches their mean.
            projection: ``"none"``: cosines of the patches themselves, nothing to train; the query
                is in the language model's input space. ``"learned"``: cosines after linear maps,
                which must be trained; the query is the frame encoder's.
            reference: what a frame is compared with. ``"preceding"``: the nearest keyframe before
                it. ``"released"``: as the authors' released code has it, the frame whose number
                is that keyframe's ordinal (0 to K - 1); the frames before the first keyframe are
                compared with themselves.
            normalise_query: False gives ``linear_q`` the frame encoder's text embedding before it
                is scaled to length one, as the released code does; its bias makes the length
                matter. Without learned projections it changes nothing.
        """

        redundancy_weight: float = 1.0
        temperature: float = 0.01
        projection: Literal["none", "learned"] = "none"
        reference: Literal["preceding", "released"] = "preceding"
        normalise_query: bool = True

        def __post_init__(self) -> None:
            require_number("redundancy_weight", self.redundancy_weight, 0, FLOAT32_MAX / 4)
            require_number("temperature", self.temperature, FLOAT32_TINY, FLOAT32_MAX)
            largest = (1 + self.redundancy_weight) / self.temperature
            scores = "(1 + redundancy_weight) / temperature"
            require(largest <= FLOAT32_MAX / 4, scores, largest, "a float32 number below 8e37")
            require(
                self.projection in ("none", "learned"),
                "projection",
                self.projection,
                "'none' or 'learned'",
            )
            require(
                self.reference in ("preceding", "released"),
                "reference",
                self.reference,
                "'preceding' or 'released'",
            )

    config: Config
    linear_q: nn.Linear
    linear_iq: nn.Linear
    linear_ik: nn.Linear
    linear_k: nn.Linear

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._learned = self.needs_training = self.config.projection == "learned"
        if self._learned:
            normalised = self.config.normalise_query
            self.query_source = "frame_encoder" if normalised else "frame_encoder_raw"

    def reference_frames(self, frames: Tensor, keyframes: Tensor) -> Tensor:
        if self.config.reference == "preceding":
            return super().reference_frames(frames, keyframes)
        return torch.searchsorted(keyframes, frames) - 1  # the ordinal, taken for a frame's number

    def build(self, patch_dim: int, query_dim: int) -> None:
        """Create the linear maps of ``projection="learned"``, normal with std 0.02, zero biases.

        ``linear_q`` maps the query, ``linear_iq`` the patches it is compared with; ``linear_k``
        maps the keyframe's patches, ``linear_ik`` the patches that they are compared with.
        """
        if not self._learned:
            return
        self.linear_q = nn.Linear(query_dim, patch_dim)
        self.linear_iq = nn.Linear(patch_dim, patch_dim)
        self.linear_ik = nn.Linear(patch_dim, patch_dim)
        self.linear_k = nn.Linear(patch_dim, patch_dim)
        for linear in (self.linear_q, self.linear_iq, self.linear_ik, self.linear_k):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def macs(self, sizes: Sizes) -> float:
        return 3 * sizes.M * sizes.D**2 if self._learned else 6 * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return (4 * sizes.M if self._learned else min(sizes.M, 128)) * sizes.D

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        return torch.cat(
            [
                weighted_sum(weights, frames)
                for weights, frames in self._weighed(patches, reference, has_reference, query)
            ]
        )

    def merge_batch(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor
    ) -> Tensor:
        """Merge frames of many videos in one pass, as a training loop does.

        `forward` goes through the frames one by one on the CPU, so that the chunk size changes no
        bit. This is faster, with gradients, and equals it up to rounding.

        Args:
            patches: ``[..., n, M, D]``, the patch tokens of non-keyframes.
            reference: ``[..., n, M, D]``, those of each one's `reference_frames`.
            has_reference: ``[..., n]`` bool, as for `forward`.
            query: ``[..., n, D]``, or ``[..., n, Dq]`` with ``projection="learned"``; n may be 1
                where the frames share a query.

        Returns:
            ``[..., n, 1, D]`` in the dtype of the patches.

        Raises:
            ValueError: a shape is wrong.
            TypeError: the patches are not floating point or ``has_reference`` is not bool.
            RuntimeError: ``projection="learned"`` and ``build`` was not called.
        """
        check_patches("dfm", patches.flatten(0, -3) if patches.ndim > 3 else patches)
        check_reference("dfm", patches, reference, has_reference)
        query = self._project_query(query, patches.shape[-1], batched=True)
        weights = self._weigh(patches, reference, has_reference, query[..., None, :])
        return weighted_sum(weights[..., None, :], patches)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        weighed = self._weighed(patches, reference, has_reference, query)
        return torch.cat([weights for weights, _ in weighed])

    def _weighed(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights ``[g, 1, M]`` and patches ``[g, M, D]`` of a few frames at a time."""
        direction = self._check(patches, reference, has_reference, query)
        size = frames_at_once(patches.device)
        parts = (torch.split(x, size) for x in (patches, reference, has_reference))
        for frames, keyframes, known in zip(*parts, strict=True):
            yield self._weigh(frames, keyframes, known, direction)[:, None], frames

    def _check(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """Raise on unusable arguments; the query, mapped to ``[D]``."""
        check_patches("dfm", patches)
        check_reference("dfm", patches, reference, has_reference)
        return self._project_query(query, patches.shape[2])

    def _project_query(self, query: Tensor | None, patch_dim: int, batched: bool = False) -> Tensor:
        """Check the query and map it to ``[D]``, or ``[..., D]``; once for all frames of a call."""
        if self._learned and not hasattr(self, "linear_q"):
            raise not_built("dfm")
        dim = self.linear_q.in_features if self._learned else patch_dim
        query = check_query("dfm", query, dim, self.query_source, batched)
        return apply(self.linear_q, query) if self._learned else query

    def _weigh(self, frames: Tensor, keyframes: Tensor, known: Tensor, query: Tensor) -> Tensor:
        """Weights ``[..., M]`` of frames' patches ``[..., M, D]``, given those of their keyframes.

        The query is ``[D]``, or ``[..., 1, D]``.
        """
        itself = self.config.reference == "released"
        known = known[..., None]
        if itself or torch.is_grad_enabled():
            # Whatever a caller left in what is unknown, even NaN, reaches no gradient. It reaches
            # no score either, by the choice below: without a gradient there is no need to copy.
            unknown = frames if itself else 0.0
            keyframes = torch.where(known[..., None], keyframes, unknown)
        relevance_view = redundancy_view = frames
        if self._learned:
            relevance_view = apply(self.linear_iq, frames)
            redundancy_view = apply(self.linear_ik, frames)
            keyframes = apply(self.linear_k, keyframes)
        relevance = cosines(relevance_view, query)
        redundancy = torch.where(known | itself, cosines(redundancy_view, keyframes), 0.0)
        saliency = relevance - self.config.redundancy_weight * redundancy
        return torch.softmax(saliency / self.config.temperature, dim=-1)
