"""Differential feature merging: patches relevant to the query and new since the keyframe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import FLOAT32_MAX, FLOAT32_TINY, require, require_number
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import (
    apply,
    cosines,
    cosines_with_each,
    frames_at_once,
    weighted_sum,
)
from vtc_mergers._checks import (
    check_patches,
    check_query,
    check_reference,
    not_built,
)


class DFM(TokenMerger):
    """Averages a frame's patches, weighted by relevance to the query and change since the keyframe.

    Eq. 5-10 of ViLAMP. The saliency of patch m is its cosine with the query minus
    ``redundancy_weight`` times its cosine with patch m of the nearest preceding keyframe (before
    the first keyframe nothing is subtracted). The weights are the softmax of the saliencies divided
    by ``temperature``. They sum to one, so the division of Eq. 9 is omitted.

    With ``projection="learned"`` the cosines are taken after linear maps, as in the authors'
    released code; with ``reference="released"`` and ``normalise_query=False`` as well, the result
    equals theirs. Their code also learns the temperature, which is an option here. ``linear_k`` and
    ``linear_ik`` have a zero gradient if no frame of a call has a reference.

    Time O(n M D), learned O(n M D^2). The CPU merges frame by frame, so that the chunk size does
    not change the result; other devices merge a few at once. Memory is O(M D) on top of the input;
    no M x M matrix is formed.
    """

    source = "ViLAMP, ICML 2025, Eq. 5-10"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``dfm``; the defaults are the paper's.

        Attributes:
            redundancy_weight: lambda, at least 0: the weight of similarity to the keyframe.
            temperature: alpha, above 0. Small: few patches dominate; large: nearly the mean.
            projection: ``"none"``: cosines of the patches themselves, nothing to train; the query
                is in the language model's input space. ``"learned"``: cosines after linear maps,
                which must be trained; the query is the frame encoder's text embedding.
            reference: The frame that a frame is compared with. ``"preceding"``: the nearest
                keyframe before it. ``"released"``, as in the authors' released code: the frame
                whose index is that keyframe's ordinal (0 to K - 1); frames before the first
                keyframe are compared with themselves.
            normalise_query: False: ``linear_q`` takes the frame encoder's text embedding before
                it is scaled to length one, as in the released code. No effect without learned
                projections.
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
    _compiled_merge: Callable[..., Tensor] | None = None
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

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the compiled function, which cannot be copied or pickled."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {**state, "_compiled_merge": None}

    def reference_frames(self, frames: Tensor, keyframes: Tensor) -> Tensor:
        if self.config.reference == "preceding":
            return super().reference_frames(frames, keyframes)
        return torch.searchsorted(keyframes, frames) - 1  # the keyframe's ordinal as a frame index

    def build(self, patch_dim: int, query_dim: int) -> None:
        """Create the linear maps of ``projection="learned"``, normal with std 0.02, zero biases.

        ``linear_q`` maps the query and ``linear_iq`` the patches compared with it; ``linear_k``
        maps the keyframe's patches and ``linear_ik`` the patches compared with those.
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
        return (3 * sizes.M if self._learned else min(sizes.M, 128)) * sizes.D

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        direction = self._check(patches, reference, has_reference, query)
        merge = self._compiled_merge or self._merge
        groups = _groups(patches, reference, has_reference)
        return torch.cat([merge(*group, direction) for group in groups])

    def compile(self, **options: Any) -> None:
        """Compile the merging of one frame with ``torch.compile`` (a few on a GPU).

        On a CPU this needs a C++ compiler and takes some seconds at the first call, then merges
        several times faster. A new frame size triggers recompilation; a new number of frames does
        not.

        Args:
            **options: Passed to ``torch.compile``.
        """
        self._compiled_merge = torch.compile(self._merge, **options)

    def merge_batch(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor
    ) -> Tensor:
        """Merge frames of several videos in one batch, for training.

        Equals `forward` up to rounding. `forward` merges frame by frame on the CPU, so that the
        chunk size does not change the result; this is faster.

        Args:
            patches: ``[..., n, M, D]``, the patch tokens of non-keyframes.
            reference: ``[..., n, M, D]``, the patch tokens of their `reference_frames`.
            has_reference: ``[..., n]`` bool, as for `forward`.
            query: ``[..., n, D]``, or ``[..., n, Dq]`` with ``projection="learned"``; n may be 1
                if the frames share a query.

        Returns:
            ``[..., n, 1, D]`` in the dtype of the patches.

        Raises:
            ValueError: A shape is wrong.
            TypeError: The patches are not floating point or ``has_reference`` is not boolean.
            RuntimeError: ``projection="learned"`` and `build` was not called.
        """
        query = self._check_batch(patches, reference, has_reference, query)
        weights = self._weigh(patches, reference, has_reference, query)
        return weighted_sum(weights[..., None, :], patches)

    def log_mass_batch(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor
    ) -> Tensor:
        """Return the `log_mass` of frames of several videos, ``[..., n]`` float32, for training.

        The arguments and errors are those of `merge_batch`.
        """
        query = self._check_batch(patches, reference, has_reference, query)
        scores = self._scores(patches, reference, has_reference, query)
        return scores.float().logsumexp(dim=-1)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        direction = self._check(patches, reference, has_reference, query)
        groups = _groups(patches, reference, has_reference)
        return torch.cat([self._weigh(*group, direction)[:, None] for group in groups])

    def log_mass(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        direction = self._check(patches, reference, has_reference, query)
        groups = _groups(patches, reference, has_reference)
        scores = [self._scores(*group, direction) for group in groups]
        return torch.cat(scores).float().logsumexp(dim=-1)

    def _merge(
        self, frames: Tensor, keyframes: Tensor, has_keyframe: Tensor, query: Tensor
    ) -> Tensor:
        """Return the tokens ``[g, 1, D]`` of frames ``[g, M, D]``; see `_weigh`."""
        weights = self._weigh(frames, keyframes, has_keyframe, query)
        return weighted_sum(weights[:, None], frames)

    def _check(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """Check the arguments and return the query, mapped to ``[D]``."""
        check_patches("dfm", patches)
        check_reference("dfm", patches, reference, has_reference)
        return self._project_query(query, patches.shape[2])

    def _check_batch(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor
    ) -> Tensor:
        """Check arguments of `merge_batch` and return the queries, mapped to ``[..., 1, D]``."""
        check_patches("dfm", patches.flatten(0, -3) if patches.ndim > 3 else patches)
        check_reference("dfm", patches, reference, has_reference)
        return self._project_query(query, patches.shape[-1], batched=True)[..., None, :]

    def _project_query(self, query: Tensor | None, patch_dim: int, batched: bool = False) -> Tensor:
        """Check the query and map it to ``[D]`` or ``[..., D]``, once for all frames of a call."""
        if self._learned and not hasattr(self, "linear_q"):
            raise not_built("dfm")
        dim = self.linear_q.in_features if self._learned else patch_dim
        query = check_query("dfm", query, dim, self.query_source, batched)
        return apply(self.linear_q, query) if self._learned else query

    def _weigh(
        self, frames: Tensor, keyframes: Tensor, has_keyframe: Tensor, query: Tensor
    ) -> Tensor:
        """Return weights ``[..., M]`` of patches: the softmax of their `_scores`."""
        return torch.softmax(self._scores(frames, keyframes, has_keyframe, query), dim=-1)

    def _scores(
        self, frames: Tensor, keyframes: Tensor, has_keyframe: Tensor, query: Tensor
    ) -> Tensor:
        """Return the saliency ``[..., M]`` of patches over the temperature (Eq. 9 of ViLAMP).

        Args:
            frames: ``[..., M, D]``, the patches.
            keyframes: ``[..., M, D]``, the patches of each frame's reference.
            has_keyframe: ``[...]`` bool.
            query: ``[D]`` or ``[..., 1, D]``.
        """
        self_reference = self.config.reference == "released"
        has_keyframe = has_keyframe[..., None]
        if self_reference or torch.is_grad_enabled():
            # A missing reference may contain anything, even NaN, which must not reach a gradient.
            # The torch.where below keeps it out of the scores, so no copy is needed without
            # gradients.
            replacement = frames if self_reference else 0.0
            keyframes = torch.where(has_keyframe[..., None], keyframes, replacement)
        if self._learned:
            relevance = cosines(apply(self.linear_iq, frames), query)
            mapped = apply(self.linear_k, keyframes)
            redundancy = cosines(apply(self.linear_ik, frames), mapped)
        else:
            relevance, redundancy = cosines_with_each(frames, [query, keyframes])
        redundancy = torch.where(has_keyframe | self_reference, redundancy, 0.0)
        saliency = relevance - self.config.redundancy_weight * redundancy
        return saliency / self.config.temperature


def _groups(
    patches: Tensor, reference: Tensor, has_reference: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the arguments of a merger for a few frames at a time."""
    size = frames_at_once(patches.device)
    frames, keyframes = torch.split(patches, size), torch.split(reference, size)
    return zip(frames, keyframes, torch.split(has_reference, size), strict=True)
