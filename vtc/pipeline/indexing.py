"""Fill the cache of a video with everything that questions about it can share."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from vtc.cache.writing import CacheError
from vtc.pipeline.caching import NOT_STORED, StoredEmbeddings
from vtc.pipeline.compress import make_pass, merge_all_frames, select_keyframes
from vtc.pipeline.locate import locate_videos
from vtc.pipeline.query import make_queries
from vtc.pipeline.report import CacheUse, Recorder, Report
from vtc.pipeline.selection import embed_frames
from vtc.pipeline.video_store import VideoStore

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder
    from vtc.pipeline.call import Call
    from vtc.pipeline.report import Progress
    from vtc.video import VideoSource


def index_video(
    source: VideoSource, encoder: FrameEncoder, stride: int = 1, progress: Progress | None = None
) -> CacheUse:
    """Store the frame embeddings of a video in its cache, unless it has them.

    Args:
        source: The video, with a cache.
        encoder: The frame encoder.
        stride: Embed every ``stride``-th frame: the first frame of each slice of a model.
        progress: Called with the stage, the frames done and the frames in all.

    Raises:
        ValueError: The source has no cache, or the weights of the encoder are unknown.
        CacheError: The cache cannot be written.
        VideoError: The video cannot be read.
    """
    recorder = Recorder(Report(selector={}, merger={}), progress)
    stored = StoredEmbeddings(source, encoder, stride, recorder)
    if not stored.is_possible:
        raise ValueError(stored.use.note)
    if stored.embeddings is None:
        firsts = range(0, len(source), stride)
        frames = (torch.from_numpy(chunk.frames) for chunk in source.chunks(firsts))
        stored.write({"embeddings": embed_frames(encoder, frames, len(firsts), recorder)})
    return stored.use


@torch.no_grad()
def fill_cache(call: Call) -> tuple[CacheUse, ...]:
    """Store everything that a video's cache can hold for a model and its parts.

    Args:
        call: A call with one video that has a cache.

    Raises:
        CacheError: Something cannot be stored.
        ValueError: The weights of a part are unknown.
        VideoError: The video cannot be read.
    """
    [feed], processors = locate_videos(call)
    call.spans = [feed.span]
    [query] = make_queries(call, processors)
    store = VideoStore(call, feed)
    with feed.decoding_ahead() if store.needs_all_frames else nullcontext():
        [selection], _ = select_keyframes(call, feed, [query], store)
    if store.tower is not None:
        store.tower.fill(call, feed)
    if store.tokens is not None and store.tokens.is_possible:
        query_pass = make_pass(call, feed, query, selection, None)
        merge_all_frames(call, feed, [query_pass], store)
    feed.release()
    for use in store.uses:
        if use.note == NOT_STORED:
            raise CacheError("; ".join(call.report.warnings))
        if use.note.startswith("not cached"):
            raise ValueError(str(use))
    return store.uses
