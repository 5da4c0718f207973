"""Frame embeddings that a cache holds, or that are computed and stored in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vtc.cache.folder import CacheError
from vtc.cache.video import FRAME_EMBEDDINGS
from vtc.pipeline.report import CacheUse, Recorder, Report
from vtc.pipeline.selection import embed_frames

if TYPE_CHECKING:
    from torch import Tensor

    from vtc.cache.entry import Key
    from vtc.cache.video import VideoCache
    from vtc.encoders.base import FrameEncoder
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.report import Progress
    from vtc.video import VideoSource


class StoredEmbeddings:
    """The frame embeddings of one video in a cache, as one encoder computes them.

    Args:
        source: The video.
        encoder: The frame encoder.
        every: Which frames: each, each second one, ...
        recorder: Takes warnings and seconds.

    Attributes:
        embeddings: ``[N, d]`` float32; None if they must be computed.
        use: What the cache did so far.
    """

    def __init__(
        self,
        source: VideoSource,
        encoder: FrameEncoder,
        every: int,
        recorder: Recorder,
    ) -> None:
        self._source, self._recorder = source, recorder
        self._cache = _cache_of(source)
        self.embeddings: Tensor | None = None
        made_by = encoder.fingerprint()
        if made_by is None:
            self._made_by: Key | None = None
            reason = f"not cached: the weights of encoder {encoder.name} are unknown"
            self.use = CacheUse(FRAME_EMBEDDINGS, False, reason)
            return
        self._made_by = {**made_by, "every": every}
        with recorder.stage("cache") as stage:
            found = self._cache.find(FRAME_EMBEDDINGS, self._made_by)
            if found.tensors is not None:
                self.embeddings = found.tensors["embeddings"].to(made_by["device"])
                stage.bytes += self.embeddings.nbytes
        self.use = CacheUse(FRAME_EMBEDDINGS, self.embeddings is not None, found.reason)
        if found.is_damaged:
            recorder.warn(f"{source.name}: {found.reason}")
        recorder.warn(*found.warnings)

    @property
    def is_possible(self) -> bool:
        """Whether the encoder says what its embeddings depend on."""
        return self._made_by is not None

    def store(self, embeddings: Tensor) -> None:
        """Store embeddings that were computed; warn where the cache cannot be written."""
        try:
            self.write(embeddings)
        except CacheError as error:  # a full disk is no reason to give no answer
            self._recorder.warn(str(error))
            self.use = CacheUse(FRAME_EMBEDDINGS, False, "computed and not stored")

    def write(self, embeddings: Tensor) -> None:
        """Store embeddings that were computed.

        Raises:
            CacheError: The cache cannot be written.
        """
        if self._made_by is None:
            return
        with self._recorder.stage("cache") as stage:
            tensors = {"embeddings": embeddings.cpu().contiguous()}
            stage.bytes += self._cache.store(
                FRAME_EMBEDDINGS, self._made_by, tensors, self._source.warnings
            )
        note = f"computed and stored, since {self.use.note}"
        self.use = CacheUse(FRAME_EMBEDDINGS, False, note)


def _cache_of(source: VideoSource) -> VideoCache:
    if source.cache is None:
        raise ValueError("expected a VideoSource with cache=FOLDER, got one without")
    return source.cache


def stored_embeddings(call: Call, feed: VideoFeed) -> StoredEmbeddings | None:
    """Look up the embeddings that the selector takes; None where the video has no cache."""
    is_shared = call.merges_encoder_patches and call.selector_encoder is call.encoder
    source = feed.source
    if source is None or source.cache is None or not call.selector.uses_embeddings or is_shared:
        return None
    every = feed.span.frames_per_slice
    return StoredEmbeddings(source, call.selector_encoder, every, call.recorder)


def needs_all_frames(call: Call, stored: StoredEmbeddings | None) -> bool:
    """Return whether the frame encoder sees every frame of a video."""
    is_read = stored is not None and stored.embeddings is not None
    return call.reads_all_frames and (call.merges_encoder_patches or not is_read)


def index_video(
    source: VideoSource, encoder: FrameEncoder, every: int = 1, progress: Progress | None = None
) -> CacheUse:
    """Store the frame embeddings of a video in its cache, unless they are there.

    Args:
        source: With a cache.
        encoder: The frame encoder.
        every: Embed each frame, each second one, ...: the first of each slice of a model.
        progress: Called with the stage, the frames done and the frames in all.

    Raises:
        ValueError: The source has no cache, or the weights of the encoder are unknown.
        CacheError: The cache cannot be written.
        VideoError: The video cannot be read.
    """
    recorder = Recorder(Report(selector={}, merger={}), progress)
    stored = StoredEmbeddings(source, encoder, every, recorder)
    if not stored.is_possible:
        raise ValueError(stored.use.note)
    if stored.embeddings is None:
        firsts = range(0, len(source), every)
        frames = (torch.from_numpy(chunk.frames) for chunk in source.chunks(firsts))
        stored.write(embed_frames(encoder, frames, len(firsts), recorder))
    return stored.use
