"""One video: choose the keyframes, encode them, then encode, merge and drop the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vtc.encoders.encoder_patches import PatchKeeper
from vtc.interfaces.part import part_errors
from vtc.interfaces.video_span import MERGED, TEXT, CompressedVideo, SliceFeatures
from vtc.pipeline.connector import PatchConnector, model_with_projectors
from vtc.pipeline.merge import checked, whole_groups
from vtc.pipeline.modules import active_module, input_device
from vtc.pipeline.report import Recorder, VideoReport, keyframes_of
from vtc.pipeline.selection import embed_frames, select_frames
from vtc.video.run_ahead import run_ahead

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder
    from vtc.interfaces.frame_selector import Selection
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.query import Query
    from vtc.pipeline.toolkit import Toolkit


def compress_video(
    model: Any, toolkit: Toolkit, feed: VideoFeed, query: Query, recorder: Recorder
) -> CompressedVideo:
    """Turn one video into K*M + (N-K)*T + t token features.

    Keyframes are encoded first, since the others are merged against the nearest one before them
    (or against other frames that the merger names); the rest goes through the vision tower chunk
    by chunk and only the merged tokens stay.
    """
    work = _Compression(model, toolkit, feed, query, recorder, _keeper(model, toolkit, feed))
    selection = work.select()
    keys = selection.keyframes.cpu()
    is_key = torch.zeros(len(feed.span), dtype=torch.bool)
    is_key[keys] = True
    rest = (~is_key).nonzero().flatten()
    if active_module(toolkit.merger).tokens_per_frame == 0:
        rest = rest[:0]  # the merged frames vanish, so they need not be encoded

    tokens: list[Tensor] = [torch.empty(0)] * len(feed.span)
    referred = work.reference_frames(rest, keys)
    wanted = torch.unique(referred[referred >= 0])
    reference = work.encode_keyframes(keys, tokens, wanted)
    work.merge(rest, referred, wanted, reference, tokens)
    work.note_extremes(len(keys))
    return work.assemble(tokens, is_key, selection)


def chunks_ahead(device: torch.device) -> int:
    """Chunks that are resized and normalised while the vision tower is at work on a device.

    On the CPU both would take the same cores.
    """
    return 0 if device.type == "cpu" else 1


@dataclass(frozen=True)
class _Compression:
    """The steps of `compress_video`, which all need the same things."""

    model: Any
    toolkit: Toolkit
    feed: VideoFeed
    query: Query
    recorder: Recorder
    kept: PatchKeeper | None
    """The frame encoder where its patches are merged, which are all there after `select`."""

    def select(self) -> Selection:
        """Choose the keyframes."""
        toolkit, feed = self.toolkit, self.feed
        encoder: FrameEncoder = toolkit.selector_encoder
        if self.kept is not None and encoder is toolkit.encoder:
            encoder = self.kept
        selection = select_frames(
            toolkit.selector,
            encoder,
            feed.rgb(),
            len(feed.span),
            feed.timestamps,
            self.query.text,
            self.recorder,
            toolkit.name_of(toolkit.selector),
        )
        if self.kept is not None and not self.kept.done:  # the selector looked elsewhere, or not
            embed_frames(self.kept, feed.rgb(), len(feed.span), self.recorder)
        return selection

    def reference_frames(self, rest: Tensor, keys: Tensor) -> Tensor:
        """``[n]`` int64, the frame that each of ``rest`` is compared with; -1 for none."""
        merger = active_module(self.toolkit.merger)
        name, last = self.toolkit.name_of(merger), len(self.feed.span) - 1
        with part_errors(f"merger {name!r}"):
            found: Tensor = merger.reference_frames(rest, keys)
        fits = (
            isinstance(found, Tensor)
            and found.dtype == torch.int64
            and found.shape == rest.shape
            and bool(((found >= -1) & (found <= last)).all())
        )
        if not fits:
            raise ValueError(
                f"merger {name!r} returned the reference frames {found} for {len(rest)} frames; "
                f"allowed are as many int64 numbers from 0 to {last}, or -1 for none"
            )
        return found

    def encode_keyframes(self, keys: Tensor, tokens: list[Tensor], wanted: Tensor) -> Tensor | None:
        """Put each keyframe's ``[M, D]`` into ``tokens``; the patches ``[R, P, D]`` of ``wanted``.

        Args:
            wanted: ``[R]`` int64, ascending: the frames that others are compared with.
        """
        patches: dict[int, Tensor] = {}
        shared = self.toolkit.connector is None
        for slices, features in self._encode(keys, "keyframes"):
            if shared:
                _keep(patches, slices, features, wanted)
            wide = torch.cat([features.tokens, *features.extra], dim=-1)
            for index, kept in zip(slices.tolist(), wide, strict=True):
                tokens[index] = kept
        missing = torch.tensor([n for n in wanted.tolist() if n not in patches], dtype=torch.int64)
        connector = self.toolkit.connector
        for slices, features in self._encode(missing, "references", through=connector):
            _keep(patches, slices, features, wanted)
        return torch.stack([patches[n] for n in wanted.tolist()]) if patches else None

    def merge(
        self,
        rest: Tensor,
        referred: Tensor,
        wanted: Tensor,
        reference: Tensor | None,
        tokens: list[Tensor],
    ) -> None:
        """Put the merged tokens ``[T, D]`` of every other frame into ``tokens``.

        Args:
            rest: ``[n]``, these frames, ascending.
            referred: ``[n]``, the frame that each is compared with, or -1.
            wanted: ``[R]``, the different frames among those, ascending.
            reference: ``[R, P, D]``, their patches; None where there are none.
        """
        merger = active_module(self.toolkit.merger)
        name = self.toolkit.name_of(merger)
        encoded = (
            (slices, features.patches, *features.extra)
            for slices, features in self._encode(
                rest, "other frames", through=self.toolkit.connector
            )
        )
        for slices, patches, *extra in whole_groups(encoded, merger.frames_together):
            with self.recorder.stage("merging") as stage:
                frames = referred[torch.searchsorted(rest, slices)]
                nearest = torch.zeros_like(patches)
                if reference is not None:
                    places = torch.searchsorted(wanted, frames.clamp(min=0))
                    nearest = reference[places.clamp(max=len(wanted) - 1).to(reference.device)]
                known = (frames >= 0).to(patches.device)
                asked = self.query.for_merger(patches)
                with part_errors(f"merger {name!r}"):
                    merged = merger(patches, nearest, known, asked)
                    weights = merger.weights(patches, nearest, known, asked) if extra else None
                rows = checked(merged, patches, name)
                if extra:
                    rows = self._with_extra(rows, weights, extra, name)
                for index, token in zip(slices.tolist(), rows, strict=True):
                    tokens[index] = token
                    stage.bytes += token.nbytes

    def _with_extra(
        self, rows: list[Tensor], weights: Any, extra: list[Tensor], name: str
    ) -> list[Tensor]:
        """Beside each frame's merged tokens, the merged features of the same patches."""
        if weights is None:
            self.recorder.warn(
                f"merger {name!r} does not say how much each patch counts, so the deepstack "
                "features of a merged frame are their plain mean"
            )
        widened = []
        for number, row in enumerate(rows):
            deep = torch.cat([layer[number] for layer in extra], dim=-1)
            share = (
                deep.new_full((len(row), len(deep)), 1 / len(deep))
                if weights is None
                else weights[number]
            )
            exact = share.to(torch.promote_types(share.dtype, deep.dtype))
            widened.append(torch.cat([row, (exact @ deep.to(exact)).to(row)], dim=-1))
        return widened

    def _encode(
        self, slices: Tensor, what: str, through: Any = None
    ) -> Iterator[tuple[Tensor, SliceFeatures]]:
        """Vision tower and projector over some slices, one chunk at a time.

        A chunk that does not fit into the device's memory is halved, and so are all later ones.

        Args:
            through: A connector of their own, where they do not go through the stock one.
        """
        if self.kept is not None and through is not None:
            yield from self._project(slices, what, active_module(through), self.kept)
            return
        done, size = 0, self.toolkit.chunk_frames
        while done < len(slices):
            for numbers, features in self._chunks(slices[done:], size, what, through):
                if features is None:
                    size = self._halved(size)
                    break
                done += len(numbers)
                self.recorder.progress(f"vision tower ({what})", done, len(slices))
                yield numbers, features

    def _chunks(
        self, slices: Tensor, size: int, what: str, through: Any
    ) -> Iterator[tuple[Tensor, SliceFeatures | None]]:
        """Chunks of a size, the last one without features where the device has no room for it."""
        device = input_device(self.model)
        connector = active_module(through)
        model = self.model if through is None else model_with_projectors(self.model, connector)
        chunks = self.feed.pixels(slices.tolist(), size)
        with closing(run_ahead(chunks, chunks_ahead(device))) as ready:
            for numbers, pixels in self.recorder.waited("decoding", ready):
                features = None
                with self.recorder.stage(f"vision tower ({what})") as stage:
                    try:
                        on_device = {name: value.to(device) for name, value in pixels.items()}
                        features = self.toolkit.adapter.encode(model, on_device)
                        stage.bytes += features.patches.nbytes
                    except torch.OutOfMemoryError:
                        if size == 1:
                            raise
                yield numbers, features

    def _halved(self, size: int) -> int:
        """Make room for a chunk of half the size, and tell of it."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what was in use lies in pieces
        self.recorder.warn(
            f"the vision tower had no memory for {size} slices at a time and went on with "
            f"{size // 2}; model.vtc.chunk_frames = {size // 2} saves the attempt"
        )
        return size // 2

    def _project(
        self, slices: Tensor, what: str, connector: Any, kept: PatchKeeper
    ) -> Iterator[tuple[Tensor, SliceFeatures]]:
        """The frame encoder's patches of some slices through their connector, a chunk at a time."""
        device = input_device(self.model)
        for numbers in torch.split(slices, self.toolkit.chunk_frames):
            with self.recorder.stage(f"connector ({what})") as stage:
                patches = connector(kept.of(numbers).to(device))
                stage.bytes += patches.nbytes
            yield numbers, SliceFeatures(patches)

    def note_extremes(self, keyframes: int) -> None:
        """Say what was lost, and where the selection left nothing to see or to compress."""
        self.recorder.warn(*self.feed.warnings)
        if keyframes == 0:
            self.recorder.warn(
                f"{self.feed.name}: no frame was good enough for a keyframe, so none keeps its "
                "tokens; loosen the selector's options"
            )
        if keyframes == len(self.feed.span):
            self.recorder.warn(
                f"{self.feed.name}: every frame is a keyframe, so nothing was compressed; ask for "
                "fewer than the frames that were read"
            )

    def assemble(
        self, tokens: list[Tensor], is_key: Tensor, selection: Selection
    ) -> CompressedVideo:
        """Order of time: token features, the placeholders they take, and the report's lines."""
        feed, span = self.feed, self.feed.span
        positions, slices, cells = _places(span, tokens, is_key)
        text = torch.zeros(0, dtype=torch.int64)
        if span.frame_text is not None:
            keeps = self.toolkit.adapter.keeps_frame_text(is_key)
            keeps &= torch.tensor([len(token) > 0 for token in tokens])
            text, of_slice, order = _frame_text(span, keeps)
            by_time = torch.cat([slices * 3 + 1, of_slice * 3 + order]).argsort(stable=True)
            positions = torch.cat([positions, text])[by_time]
            slices = torch.cat([slices, of_slice])[by_time]
            cells = torch.cat([cells, torch.full_like(text, TEXT)])[by_time]
        tail = self.toolkit.adapter.tail(self.model)
        kept = _as_wide([token for token in tokens if len(token)])
        if not kept:
            raise ValueError(
                f"nothing is left of {feed.name}: the selector chose no keyframe and the merger "
                "drops the other frames; loosen the selector's options or choose another merger"
            )
        features = torch.cat(kept if tail is None else [*kept, tail.to(kept[0])])
        before, after = span.slots.numel() + len(span.tail), len(features)
        if after >= before and not bool(is_key.all()):
            self.recorder.warn(
                f"{feed.name}: {before} visual tokens became {after}, so nothing was compressed; "
                "let the merger make fewer tokens of a frame"
            )
        self.recorder.report.videos.append(
            VideoReport(
                name=feed.name,
                frames=feed.frames,
                keyframes=keyframes_of(selection, feed.timestamps, span.frames_per_slice),
                tokens_before=before,
                tokens_after=after,
                text_before=0 if span.frame_text is None else sum(map(len, span.frame_text)),
                text_after=len(text),
                query=self.query.text,
            )
        )
        return CompressedVideo(
            span=span,
            features=features,
            positions=torch.cat([positions, span.tail.cpu()]),
            slices=slices,
            cells=cells,
            seconds_per_slice=feed.seconds_per_slice,
        )


def _keeper(model: Any, toolkit: Toolkit, feed: VideoFeed) -> PatchKeeper | None:
    """What keeps the frame encoder's patches, where those are merged."""
    if not isinstance(active_module(toolkit.connector), PatchConnector):
        return None
    dtype = model.get_input_embeddings().weight.dtype
    return PatchKeeper(toolkit.encoder, len(feed.span), dtype)


def _as_wide(tokens: list[Tensor]) -> list[Tensor]:
    """Tokens ``[_, D]`` with zeros for the deepstack features that only others ``[_, W]`` have."""
    width = max((token.shape[-1] for token in tokens), default=0)
    return [
        token if token.shape[-1] == width else F.pad(token, (0, width - token.shape[-1]))
        for token in tokens
    ]


def _keep(
    patches: dict[int, Tensor], slices: Tensor, features: SliceFeatures, wanted: Tensor
) -> None:
    """Put the patches ``[P, D]`` of wanted slices into ``patches``."""
    chosen = torch.isin(slices, wanted).nonzero().flatten()
    # Chosen by their numbers: a view would keep the whole chunk alive, a mask would wait for a GPU.
    kept = features.patches[chosen.to(features.patches.device)]
    patches.update(zip(slices[chosen].tolist(), kept, strict=True))


def _places(span: VideoSpan, tokens: list[Tensor], is_key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each kept token: the placeholder that it takes, its slice, and its cell of the grid."""
    lengths = torch.tensor([len(token) for token in tokens])
    slices = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
    within = torch.arange(len(slices)) - (lengths.cumsum(0) - lengths)[slices]
    # More merged tokens than placeholders in a slice: the last placeholder stands for them.
    positions = span.slots.cpu()[slices, within.clamp(max=span.slots.shape[1] - 1)]
    return positions, slices, torch.where(is_key[slices], within, MERGED)


def _frame_text(span: VideoSpan, keeps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The text that is kept: its positions, slices, and 0 before a slice's tokens or 2 after."""
    around = span.frame_text or ()
    lengths = torch.tensor([len(text) for text in around])
    of_slice = torch.repeat_interleave(torch.arange(len(around)), lengths)
    kept = keeps[of_slice]
    positions, of_slice = torch.cat([text.cpu() for text in around])[kept], of_slice[kept]
    after = positions > span.slots.cpu()[of_slice, -1]
    return positions, of_slice, 2 * after.long()
