"""Encode slices: the vision tower and the projector, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from vtc.interfaces.token_pruner import TokenPruner
from vtc.interfaces.video_span import SliceFeatures
from vtc.pipeline.saliency import encode_with_saliency
from vtc.video.run_ahead import run_ahead

if TYPE_CHECKING:
    from vtc.encoders.encoder_patches import PatchKeeper
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import Pixels, VideoFeed
    from vtc.pipeline.video_store import VideoStore

R = TypeVar("R", "SliceFeatures", "tuple[Tensor, ...]")


def chunks_ahead(device: torch.device) -> int:
    """Return the number of chunks to preprocess while the vision tower runs on a device.

    On the CPU both would compete for the same cores.
    """
    return 0 if device.type == "cpu" else 1


def encode_slices(
    call: Call, feed: VideoFeed, model: Any, slices: Tensor, what: str, saliency: bool = False
) -> Iterator[tuple[Tensor, SliceFeatures]]:
    """Run the vision tower and the projector over some slices, one chunk at a time.

    A chunk that does not fit into GPU memory is halved, and so are all later ones.

    Args:
        model: ``call.model`` for the stock projector, ``call.merged_model`` for the connector.
        slices: ``[n]`` int64, ascending.
        what: A label of the slices, for the names of the report's stages.
        saliency: Whether to compute the saliency of the tokens.

    Yields:
        The numbers ``[c]`` of a chunk's slices, and their features.

    Raises:
        torch.OutOfMemoryError: A single slice does not fit.
        ValueError: The tower's saliency cannot be read.
    """

    def encode(pixels: Pixels) -> SliceFeatures:
        if saliency:
            return encode_with_saliency(call.adapter, model, pixels).to(call.device)
        return call.adapter.encode(model, pixels).to(call.device)

    return run_tower(call, feed, slices, what, encode)


def run_tower(
    call: Call, feed: VideoFeed, slices: Tensor, what: str, run: Callable[[Pixels], R]
) -> Iterator[tuple[Tensor, R]]:
    """Run a function on the pixels of some slices, as `encode_slices` does.

    Args:
        run: Takes the pixels of a chunk.

    Yields:
        The numbers ``[c]`` of a chunk's slices, and the result of ``run``.
    """
    done, size = 0, call.chunk_slices
    while done < len(slices):
        for numbers, results in _chunks(call, feed, slices[done:], size, what, run):
            if results is None:
                size = _halve(call, size)
                break
            done += len(numbers)
            call.recorder.progress(f"vision tower ({what})", done, len(slices))
            yield numbers, results


def _chunks(
    call: Call,
    feed: VideoFeed,
    slices: Tensor,
    size: int,
    what: str,
    run: Callable[[Pixels], R],
) -> Iterator[tuple[Tensor, R | None]]:
    """Yield chunks of a size, with None as the result of a chunk that exceeds the GPU memory."""
    chunks = feed.pixels(slices.tolist(), size)
    with closing(run_ahead(chunks, chunks_ahead(call.device))) as ready:
        for numbers, pixels in call.recorder.waited("decoding", ready):
            results = None
            with call.recorder.stage(f"vision tower ({what})") as stage:
                try:
                    on_device = {name: value.to(call.device) for name, value in pixels.items()}
                    results = run(on_device)
                    stage.bytes += _bytes(results)
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
            yield numbers, results


def _bytes(results: Any) -> int:
    tensors = [results.patches] if isinstance(results, SliceFeatures) else results
    return sum(tensor.nbytes for tensor in tensors)


def _halve(call: Call, size: int) -> int:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # free blocks may be too small for the next chunk
    call.recorder.warn(
        f"the vision tower ran out of memory with {size} slices at a time and continues with "
        f"{size // 2}; set model.vtc.chunk_slices = {size // 2} to avoid the retry"
    )
    return size // 2


def project_encoder_patches(
    call: Call, patches: PatchKeeper, slices: Tensor, what: str
) -> Iterator[tuple[Tensor, SliceFeatures]]:
    """Project the frame encoder's patches of some slices, one chunk at a time.

    Takes and yields the same as `encode_slices`.
    """
    for numbers in torch.split(slices, call.chunk_slices):
        with call.recorder.stage(f"connector ({what})") as stage:
            features = call.connector(patches.of(numbers).to(call.device))
            stage.bytes += features.nbytes
        yield numbers, SliceFeatures(features)


def as_merged(call: Call, features: SliceFeatures) -> SliceFeatures:
    """Return features whose ``patches`` the merger takes; pruners take a keyframe's tokens."""
    return replace(features, dense=None) if isinstance(call.merger, TokenPruner) else features


def encode_whole(
    call: Call,
    feed: VideoFeed,
    model: Any,
    slices: Tensor,
    store: VideoStore,
    what: str,
    saliency: bool = False,
) -> Iterator[tuple[Tensor, SliceFeatures]]:
    """Read slices from the cache, or run the vision tower and the projector on them."""
    if store.tower is not None and store.tower.tensors is not None:
        return store.tower.project(call, model, slices, what)
    return encode_slices(call, feed, model, slices, what, saliency)


def encode_merged(
    call: Call, feed: VideoFeed, slices: Tensor, store: VideoStore, what: str
) -> Iterator[tuple[Tensor, SliceFeatures]]:
    """Encode slices whose patches are merged or compared, as `encode_slices` does.

    Raises:
        ValueError: The merger needs the vision tower's saliency, but the frame encoder's patches
            are merged.
    """
    if store.patches is not None:
        if call.uses_saliency:
            raise ValueError(
                f"merger {call.merger_name!r} needs the saliency of the vision tower, but the "
                "frame encoder's patches are merged; choose another merger, or wrap the model "
                "without merge_encoder_patches()"
            )
        encoded = project_encoder_patches(call, store.patches, slices, what)
    else:
        model, saliency = call.merged_model, call.uses_saliency
        encoded = encode_whole(call, feed, model, slices, store, what, saliency)
    return ((numbers, as_merged(call, features)) for numbers, features in encoded)


def encode_non_keyframes(
    call: Call, feed: VideoFeed, store: VideoStore, slices: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the numbers, the patches and the further features of slices, in chunks.

    The last of the further features is the saliency, if the merger uses it.
    """
    for numbers, features in encode_merged(call, feed, slices, store, "non-keyframes"):
        yield numbers, features.patches, *features.extra, *_saliency(features)


def encode_tokens(
    call: Call, feed: VideoFeed, store: VideoStore, slices: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the numbers, a keyframe's tokens and the further features of slices, in chunks."""
    for numbers, features in encode_merged(call, feed, slices, store, "whole video"):
        yield numbers, features.tokens, *features.extra, *_saliency(features)


def _saliency(features: SliceFeatures) -> tuple[Tensor, ...]:
    return () if features.saliency is None else (features.saliency,)
