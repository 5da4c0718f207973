"""The cached tensors of one video, looked up before its frames are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vtc.cache.video import MERGED_TOKENS
from vtc.encoders.encoder_patches import PatchKeeper
from vtc.interfaces.frame_selector import LazySelector
from vtc.pipeline.cache_keys import tokens_key
from vtc.pipeline.caching import StoredEmbeddings, StoredTensors
from vtc.pipeline.stored_tower import StoredTower

if TYPE_CHECKING:
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.report import CacheUse


class VideoStore:
    """The cached tensors of one video, looked up before its frames are read.

    Attributes:
        patches: Holds the frame encoder's patches; None if they are not merged.
        selection: The embeddings that the selector takes; None without a cache.
        merging: The patches, if the selector does not take the same encoder's embeddings.
        tokens: The merged tokens of all frames, if they depend on neither query nor keyframes.
        tower: The output of the vision tower, if it is cached.

    Raises:
        ValueError: The vision tower's output is to be cached, but the adapter does not separate
            the tower from the projector.
    """

    def __init__(self, call: Call, feed: VideoFeed) -> None:
        self._call = call
        self.patches: PatchKeeper | None = None
        self.selection: StoredEmbeddings | None = None
        self.merging: StoredEmbeddings | None = None
        self.tokens: StoredTensors | None = None
        self.tower: StoredTower | None = None
        if call.merges_encoder_patches:
            dtype = call.model.get_input_embeddings().weight.dtype
            self.patches = PatchKeeper(call.encoder, len(feed.span), dtype)
        source, stride = feed.source, feed.span.frames_per_slice
        if source is None or source.cache is None:
            return
        selects = call.selector.uses_embeddings
        shares = selects and call.selector_encoder is call.encoder
        if selects:
            patches = self.patches if shares else None
            self.selection = StoredEmbeddings(
                source, call.selector_encoder, stride, call.recorder, patches
            )
        if self.patches is not None and not shares:
            self.merging = StoredEmbeddings(
                source, call.encoder, stride, call.recorder, self.patches
            )

        if merges_frames_alone(call):
            key = tokens_key(call, feed)
            self.tokens = StoredTensors(source, MERGED_TOKENS, key, call.recorder)
        if source.cache.tower and not torch.is_grad_enabled():
            self.tower = StoredTower(call, feed)

    @property
    def needs_all_frames(self) -> bool:
        """Whether the frame encoder sees every frame of the video."""
        selector = self._call.selector
        embeds = selector.uses_embeddings and not isinstance(selector, LazySelector)
        if self.selection is not None and self.selection.embeddings is not None:
            embeds = False
        return embeds or (self.patches is not None and not self.patches.done)

    @property
    def uses(self) -> tuple[CacheUse, ...]:
        """The uses of the cache, for the report."""
        stored = (self.selection, self.merging, self.tokens, self.tower)
        return tuple(tensors.use for tensors in stored if tensors is not None)


def merges_frames_alone(call: Call) -> bool:
    """Return whether the merged tokens of a frame depend on its patches alone."""
    return merges_alone(call.merger) and call.budget is None and not torch.is_grad_enabled()


def merges_alone(merger: TokenMerger) -> bool:
    """Return whether a merger takes only the patches of one frame."""
    return (
        merger.query_source is None
        and not merger.uses_reference
        and not getattr(merger, "uses_survey", False)
        and not getattr(merger, "uses_saliency", False)
        and merger.frames_together == 1
        and merger.tokens_per_frame > 0
    )
