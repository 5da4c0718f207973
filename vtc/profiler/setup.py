"""From a model and the parts to a profile: what ``vtc profile`` runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from vtc.interfaces.token_merger import takes_text_embedding
from vtc.pipeline.modules import active_module
from vtc.plugins import registry
from vtc.profiler.count import count
from vtc.profiler.measure import DrawnFrames, matrix_rate, measure, measured
from vtc.profiler.models import empty_model
from vtc.profiler.stages import LengthProfile, Profile
from vtc.profiler.subject import Subject, bytes_of, encoder_without_weights, on_meta
from vtc.video import VideoSource
from vtc.wrapped.access import toolkit_of
from vtc.wrapped.generation import chunks_save_memory

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder

_WARM_UP = 4
"""Frames of the run before those that are measured."""
_READ = ("size", "text_tokens", "new_tokens", "chunk", "prefill_chunk", "fast_path")
_LIBRARIES = ("video-token-compression", "torch", "transformers")
Said = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is read and how.

    Attributes:
        frames: The lengths.
        size: Height and width of the frames.
        text_tokens: The prompt without the video, where it is only counted.
        question: What is asked where the model really runs.
        new_tokens: The length of the answer.
        chunk: Slices that the vision tower sees at a time.
        prefill_chunk: Tokens of the prompt that the language model sees at a time, where that is
            possible and saves memory; None for all.
        fast_path: Merge other frames from the frame encoder's patches.
    """

    frames: Sequence[int]
    size: tuple[int, int] = (360, 640)
    text_tokens: int = 64
    question: str = "What happens in this video?"
    new_tokens: int = 16
    chunk: int = 16
    prefill_chunk: int | None = 4096
    fast_path: bool = False

    def __post_init__(self) -> None:
        if not self.frames or min(self.frames) < 1:
            raise ValueError(f"frames={list(self.frames)}: allowed are numbers of at least 1")


def count_profile(
    name: str,
    config: Any,
    processor: Any,
    settings: Settings,
    *,
    selector: Any,
    merger: Any,
    encoder: str,
    dtype: torch.dtype,
    say: Said = lambda text: None,
) -> Profile:
    """Count a model that has a configuration and no weights.

    Args:
        config, processor: The model's.
        selector, merger: As ``vtc.wrap`` takes them.
        encoder: The name of the frame encoder; only loaded where a part needs it.
        say: Told what is being done.
    """
    adapter = registry.adapter_for(config.model_type)
    choosing = registry.build_part("selector", selector)
    merging = registry.build_part("merger", merger)
    say("laying out the model")
    model = empty_model(config, dtype)
    looking: FrameEncoder | None = None
    if settings.fast_path and choosing.encoder is not None:
        raise ValueError(
            f"the fast path is not counted with a selector that looks through an encoder of its "
            f"own ({choosing.encoder}); choose another selector, such as dks"
        )
    if choosing.uses_embeddings or settings.fast_path:
        looking = encoder_without_weights(choosing.encoder or encoder)
    width, asked = model.get_input_embeddings().weight.shape[-1], None
    if takes_text_embedding(merging):
        own = looking if choosing.encoder is None else None
        asked = (own or encoder_without_weights(encoder)).dim
    merging.build(width, asked or width)
    merging.to(dtype)
    subject = _subject(model, processor, adapter, choosing, merging, looking, asked, settings)
    lengths = []
    for frames in settings.frames:
        say(f"counting {frames:,} frames")
        lengths.append(count(subject, frames))
    return _profile(name, subject, lengths, encoder=choosing.encoder or encoder, device="meta")


def measure_profile(
    name: str,
    model: Any,
    processor: Any,
    settings: Settings,
    *,
    video: Any = None,
    say: Said = lambda text: None,
) -> Profile:
    """Run a wrapped model on videos of each length, and count the same beside it.

    Args:
        video: A file; None for frames that are drawn while they are read.
    """
    toolkit = toolkit_of(model)
    toolkit.chunk_slices, toolkit.prefill_chunk = settings.chunk, settings.prefill_chunk
    if settings.fast_path and toolkit.connector_kind != "encoder_patches":
        toolkit.add_connector("encoder_patches")
    settings = replace(settings, fast_path=toolkit.connector_kind == "encoder_patches")
    if video is not None:
        source = VideoSource(video)
        settings = replace(settings, size=(source.height, source.width))

    def run(frames: int, new_tokens: int) -> Any:
        drawn = DrawnFrames(frames, *settings.size)
        asked = {"frames": frames, "new_tokens": new_tokens}
        return measure(model, processor, video or drawn, settings.question, **asked)

    say("warming up")
    run(min(_WARM_UP, *settings.frames), 2)
    encoder = toolkit.selector_encoder
    looks = toolkit.selector.uses_embeddings or settings.fast_path
    looking = on_meta(encoder.load()) if looks else None
    subject = _subject(
        empty_model(model.config, model.dtype),
        processor,
        toolkit.adapter,
        toolkit.selector,
        copy.deepcopy(active_module(toolkit.merger)).to("cpu"),
        looking,
        toolkit.encoder.dim if takes_text_embedding(active_module(toolkit.merger)) else None,
        settings,
    )
    lengths: list[LengthProfile] = []
    for frames in settings.frames:
        say(f"reading {frames:,} frames")
        found = run(frames, settings.new_tokens)
        say(f"counting {frames:,} frames")
        lengths.append(measured(count(subject, frames, found.keyframes, found.prompt), found))
    device = next(model.parameters()).device
    say("measuring a matrix product")
    rate = matrix_rate(device, model.dtype)
    found = _profile(name, subject, lengths, encoder=encoder.name, device=str(device))
    return replace(found, matrix_rate=rate)


def _subject(
    model: Any,
    processor: Any,
    adapter: Any,
    selector: Any,
    merger: Any,
    encoder: FrameEncoder | None,
    query_dim: int | None,
    settings: Settings,
) -> Subject:
    size = settings.prefill_chunk
    in_chunks = size is not None and chunks_save_memory(
        model.config.get_text_config(), adapter, size
    )
    return Subject(
        model=model,
        processor=processor,
        adapter=adapter,
        selector=selector,
        merger=merger,
        encoder=encoder,
        query_dim=query_dim,
        size=settings.size,
        text_tokens=settings.text_tokens,
        new_tokens=settings.new_tokens,
        chunk=settings.chunk,
        prefill_chunk=size if in_chunks else None,
        fast_path=settings.fast_path,
    )


def _profile(
    name: str, subject: Subject, lengths: Sequence[LengthProfile], *, encoder: str, device: str
) -> Profile:
    looks = subject.encoder is not None
    return Profile(
        model=name,
        selector=registry.spec_of(subject.selector),
        merger=registry.spec_of(subject.merger),
        encoder=encoder if looks else "",
        device=device,
        dtype=str(subject.model.dtype).removeprefix("torch."),
        weights=bytes_of(subject.model),
        encoder_weights=bytes_of(subject.encoder) if looks else 0,
        lengths=tuple(lengths),
        settings={name: getattr(subject, name) for name in _READ},
        libraries={name: version(name) for name in _LIBRARIES},
        notes=tuple(_notes(subject, device)),
    )


def _notes(subject: Subject, device: str) -> list[str]:
    notes = []
    if subject.fast_path:
        notes.append("Other frames are merged from the frame encoder's patches (the fast path).")
    if subject.adapter.placeholder_per_slice and device == "meta":
        notes.append("The text that this family writes around each slice is not counted.")
    if subject.prefill_chunk is not None:
        notes.append(
            f"The prompt is read {subject.prefill_chunk:,} tokens at a time: no query is compared "
            "with later pieces, which saves attention. The stock model's is read at once."
        )
    return notes
