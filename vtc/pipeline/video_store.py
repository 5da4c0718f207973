"""What is known of one video before its frames are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vtc.cache.video import MERGED_TOKENS
from vtc.encoders.encoder_patches import PatchKeeper
from vtc.pipeline.cache_keys import maker_of_tokens
from vtc.pipeline.caching import StoredEmbeddings, StoredTensors
from vtc.pipeline.stored_tower import StoredTower

if TYPE_CHECKING:
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.report import CacheUse


class VideoStore:
    """What is known of one video before its frames are read.

    Attributes:
        patches: Where the frame encoder's patches are kept; None where nothing merges them.
        selection: The embeddings that the selector takes; None without a cache.
        merging: The patches, where the selector does not take the same encoder's embeddings.
        tokens: The merged tokens of all frames, where they depend on neither query nor keyframes.
        tower: The output of the vision tower, where the cache shall hold it.

    Raises:
        ValueError: The cache shall hold the tower's output, and the family does not separate it.
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
        source, every = feed.source, feed.span.frames_per_slice
        if source is None or source.cache is None:
            return
        selects = call.selector.uses_embeddings
        shares = selects and call.selector_encoder is call.encoder
        if selects:
            patches = self.patches if shares else None
            self.selection = StoredEmbeddings(
                source, call.selector_encoder, every, call.recorder, patches
            )
        if self.patches is not None and not shares:
            self.merging = StoredEmbeddings(
                source, call.encoder, every, call.recorder, self.patches
            )

        if merges_frames_alone(call):
            made_by = maker_of_tokens(call, feed)
            self.tokens = StoredTensors(source, MERGED_TOKENS, made_by, call.recorder)
        if source.cache.tower and not torch.is_grad_enabled():
            self.tower = StoredTower(call, feed)

    @property
    def needs_all_frames(self) -> bool:
        """Whether the frame encoder sees every frame of the video."""
        embeds = self._call.selector.uses_embeddings
        if self.selection is not None and self.selection.embeddings is not None:
            embeds = False
        return embeds or (self.patches is not None and not self.patches.done)

    @property
    def uses(self) -> tuple[CacheUse, ...]:
        """What the cache did, for the report."""
        stored = (self.selection, self.merging, self.tokens, self.tower)
        return tuple(one.use for one in stored if one is not None)


def merges_frames_alone(call: Call) -> bool:
    """Return whether the merged tokens of a frame depend on its patches alone."""
    return merges_alone(call.merger) and call.budget is None and not torch.is_grad_enabled()


def merges_alone(merger: TokenMerger) -> bool:
    """Return whether a merger takes the patches of one frame and nothing else."""
    return (
        merger.query_source is None
        and not merger.uses_reference
        and not getattr(merger, "uses_survey", False)
        and merger.frames_together == 1
        and merger.tokens_per_frame > 0
    )
