"""Sort the tokens of one video by time, with their placeholders and frame text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vtc.interfaces.video_span import MERGED, TEXT, CompressedVideo
from vtc.pipeline.report import Heat, VideoReport, keyframes_of, numbers_of

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import Selection
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pages.pictures import Pictures
    from vtc.pipeline.budget import Allocation
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.query import Query


def assemble_video(
    call: Call,
    feed: VideoFeed,
    query: Query,
    tokens: list[Tensor],
    is_keyframe: Tensor,
    selection: Selection,
    heat: Sequence[Heat] = (),
    hidden: Sequence[Tensor] = (),
    allocation: Allocation | None = None,
    cells_of: Mapping[int, Tensor] = MappingProxyType({}),
) -> CompressedVideo:
    """Order the tokens by time, choose the placeholders they take, and report the video.

    Args:
        tokens: The tokens ``[T_i, D]`` of each of the N slices.
        is_keyframe: ``[N]`` bool.
        heat: The merger's weights of some frames.
        hidden: The vision tower's last states ``[P', Dv]`` of the keyframes.
        allocation: The tokens that the budget gave each slice; None without a budget.
        cells_of: ``[T_i]`` int64 by the number of a merged slice: the cells of its tokens, if
            known.

    Raises:
        ValueError: No token is left, or none is finite.
    """
    span = feed.span
    positions, slices, cells = _places(span, tokens, is_keyframe, cells_of)
    text = torch.zeros(0, dtype=torch.int64)
    if span.frame_text is not None:
        keeps = call.adapter.keeps_frame_text(is_keyframe)
        keeps &= torch.tensor([len(token) > 0 for token in tokens])
        text, of_slice, side = _kept_frame_text(span, keeps)
        by_time = torch.cat([slices * 3 + 1, of_slice * 3 + side]).argsort(stable=True)
        positions = torch.cat([positions, text])[by_time]
        slices = torch.cat([slices, of_slice])[by_time]
        cells = torch.cat([cells, torch.full_like(text, TEXT)])[by_time]
    tail = call.adapter.tail(call.model)
    kept = _equally_wide([token for token in tokens if len(token)])
    if not kept:
        raise ValueError(
            f"nothing is left of {feed.name}: the selector chose no keyframe and the merger "
            "drops all non-keyframes; loosen the selector's options or choose another merger"
        )
    features = torch.cat(kept if tail is None else [*kept, tail.to(kept[0])])
    _check_finite(call, feed, features[: sum(map(len, kept))])
    lengths = torch.tensor([len(token) for token in tokens])
    report = VideoReport(
        name=feed.name,
        frames=feed.frames,
        keyframes=keyframes_of(selection, feed.timestamps, span.frames_per_slice),
        tokens_before=span.slots.numel() + len(span.tail),
        tokens_after=len(features),
        text_before=0 if span.frame_text is None else sum(map(len, span.frame_text)),
        text_after=len(text),
        query=query.text,
        timestamps=numbers_of(feed.timestamps),
        relevance=numbers_of(selection.relevance),
        frames_per_slice=span.frames_per_slice,
        budget=None if allocation is None else allocation.summary(),
        decoded=feed.decoded,
        kept=feed.kept,
        cache=feed.cache_uses,
        heat=tuple(heat),
        pictures=_pictures(call, feed, is_keyframe, heat),
        keyframe_tokens=int(lengths[is_keyframe].sum()),
        merged_tokens=int(lengths[~is_keyframe].sum()),
    )
    call.report.videos.append(report)
    _warn_of_extremes(call, feed, report, is_keyframe)
    return CompressedVideo(
        span=span,
        features=features,
        positions=torch.cat([positions, span.tail.cpu()]),
        slices=slices,
        cells=cells,
        seconds_per_slice=feed.seconds_per_slice,
        hidden=torch.stack(list(hidden)) if hidden else None,
    )


def _check_finite(call: Call, feed: VideoFeed, features: Tensor) -> None:
    """Warn about NaN or infinite tokens, which make the language model's answer noise.

    Raises:
        ValueError: None of the tokens is finite.
    """
    if features.is_meta:
        return
    lost = int((~torch.isfinite(features).all(dim=-1)).sum())
    if lost == 0:
        return
    message = (
        f"{feed.name}: {lost} of {len(features)} visual tokens are NaN or infinite, for example "
        "because float16 overflows in the vision tower or the projector; load the model with "
        "dtype=torch.bfloat16"
    )
    if lost == len(features):
        raise ValueError(message)
    call.recorder.warn(message)


def _pictures(
    call: Call, feed: VideoFeed, is_keyframe: Tensor, heat: Sequence[Heat]
) -> Pictures | None:
    """Return pictures of the keyframes and of the frames in ``heat``."""
    if torch.is_grad_enabled():  # not needed in training
        return None
    shown = is_keyframe.clone()
    shown[[item.index // feed.span.frames_per_slice for item in heat]] = True
    try:
        return feed.pictures(shown.nonzero().flatten().tolist())
    except Exception as error:  # from a third party's adapter; the answer matters more
        call.recorder.warn(f"{feed.name}: its frames cannot be shown: {error}")
        return None


def _warn_of_extremes(
    call: Call, feed: VideoFeed, report: VideoReport, is_keyframe: Tensor
) -> None:
    """Warn if frames were lost while reading, no keyframe was chosen, or nothing was compressed."""
    call.recorder.warn(*feed.warnings)
    chooses = call.selector.uses_embeddings or call.selector.config is not None  # not `none`
    if chooses and not bool(is_keyframe.any()) and report.budget is None:
        call.recorder.warn(
            f"{feed.name}: the selector chose no keyframe, so no frame keeps all its tokens; "
            "loosen the selector's options"
        )
    if bool(is_keyframe.all()):
        call.recorder.warn(
            f"{feed.name}: every frame keeps all its tokens, so nothing was compressed; "
            + (
                "set keyframes below the number of frames"
                if report.budget is None
                else "the budget holds them all"
            )
        )
    elif report.tokens_after >= report.tokens_before:
        call.recorder.warn(
            f"{feed.name}: {report.tokens_before} visual tokens became {report.tokens_after}, so "
            "nothing was compressed; make the merger produce fewer tokens per frame"
        )


def _equally_wide(tokens: list[Tensor]) -> list[Tensor]:
    """Pad tokens ``[_, D]`` with zeros to the width of tokens with deepstack features."""
    width = max((token.shape[-1] for token in tokens), default=0)
    return [
        token if token.shape[-1] == width else F.pad(token, (0, width - token.shape[-1]))
        for token in tokens
    ]


def _places(
    span: VideoSpan, tokens: list[Tensor], is_keyframe: Tensor, cells_of: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each token, the placeholder it replaces, its slice, and its cell of the grid."""
    lengths = torch.tensor([len(token) for token in tokens])
    slices = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
    starts = lengths.cumsum(0) - lengths
    within = torch.arange(len(slices)) - starts[slices]
    cells = torch.where(is_keyframe[slices], within, MERGED)
    for number, slice_cells in cells_of.items():
        cells[starts[number] : starts[number] + len(slice_cells)] = slice_cells
    # If a slice has more merged tokens than placeholders, the last placeholder is repeated.
    places = torch.where(cells == MERGED, within, cells).clamp(max=span.slots.shape[1] - 1)
    return span.slots.cpu()[slices, places], slices, cells


def _kept_frame_text(span: VideoSpan, keeps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kept text: positions, slices, and 0 before a slice's tokens or 2 after them."""
    around = span.frame_text or ()
    lengths = torch.tensor([len(text) for text in around])
    of_slice = torch.repeat_interleave(torch.arange(len(around)), lengths)
    kept = keeps[of_slice]
    positions, of_slice = torch.cat([text.cpu() for text in around])[kept], of_slice[kept]
    after = positions > span.slots.cpu()[of_slice, -1]
    return positions, of_slice, 2 * after.long()
