"""Build a profile from a model and the parts, for ``vtc profile``."""

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
"""The number of frames of the warm-up run."""
_READ = ("size", "text_tokens", "new_tokens", "chunk", "prefill_chunk", "fast_path", "max_tokens")
_LIBRARIES = ("video-token-compression", "torch", "transformers")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The lengths to profile, and the options for reading videos.

    Attributes:
        frames: The lengths in frames, each at least 1.
        size: The height and width of the frames in pixels.
        text_tokens: The number of prompt tokens without the video, for counts.
        question: The question, for measurements.
        new_tokens: The number of tokens of the answer.
        chunk: Slices that the vision tower encodes at a time.
        prefill_chunk: Prompt tokens that the language model reads at a time, if that is possible
            and saves memory; None for all.
        fast_path: Merge non-keyframes from the frame encoder's patches.
        max_tokens: A budget of visual tokens; None: no limit.
    """

    frames: Sequence[int]
    size: tuple[int, int] = (360, 640)
    text_tokens: int = 64
    question: str = "What happens in this video?"
    new_tokens: int = 16
    chunk: int = 16
    prefill_chunk: int | None = 4096
    fast_path: bool = False
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.frames or min(self.frames) < 1:
            raise ValueError(f"expected frames to be numbers >= 1, got {list(self.frames)}")


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
    say: Say = lambda text: None,
) -> Profile:
    """Count a model from its configuration, without weights.

    Args:
        config, processor: The model's configuration and processor.
        selector, merger: As ``vtc.wrap`` takes them.
        encoder: The name of the frame encoder, which is loaded only if a part needs it.
        say: Called with a description of each step.

    Raises:
        ValueError: The fast path is requested, but the selector names an encoder.
    """
    adapter = registry.adapter_for(config.model_type)
    selector_part = registry.build_part("selector", selector)
    merger_part = registry.build_part("merger", merger)
    say("building the model without weights")
    model = empty_model(config, dtype)
    frame_encoder: FrameEncoder | None = None
    if settings.fast_path and selector_part.encoder is not None:
        raise ValueError(
            "expected a selector without its own frame encoder for the fast path, got "
            f"{selector_part.encoder}; use another selector, such as dks"
        )
    if selector_part.uses_embeddings or settings.fast_path:
        frame_encoder = encoder_without_weights(selector_part.encoder or encoder)
    width, query_dim = model.get_input_embeddings().weight.shape[-1], None
    if takes_text_embedding(merger_part):
        shared = frame_encoder if selector_part.encoder is None else None
        query_dim = (shared or encoder_without_weights(encoder)).dim
    merger_part.build(width, query_dim or width)
    merger_part.to(dtype)
    subject = _subject(
        model, processor, adapter, selector_part, merger_part, frame_encoder, query_dim, settings
    )
    lengths = []
    for frames in settings.frames:
        say(f"counting {frames:,} frames")
        lengths.append(count(subject, frames))
    return _profile(name, subject, lengths, encoder=selector_part.encoder or encoder, device="meta")


def measure_profile(
    name: str,
    model: Any,
    processor: Any,
    settings: Settings,
    *,
    video: Any = None,
    say: Say = lambda text: None,
) -> Profile:
    """Run a wrapped model on videos of each length, and count the same work.

    Args:
        video: A file; None for generated frames.

    Raises:
        ValueError: The file has fewer frames than a length.
    """
    toolkit = toolkit_of(model)
    toolkit.chunk_slices, toolkit.prefill_chunk = settings.chunk, settings.prefill_chunk
    if settings.max_tokens is not None:
        toolkit.budget = settings.max_tokens
    if settings.fast_path and toolkit.connector_kind != "encoder_patches":
        toolkit.add_connector("encoder_patches")
    settings = replace(settings, fast_path=toolkit.connector_kind == "encoder_patches")
    if video is not None:
        source = VideoSource(video)
        settings = replace(settings, size=(source.height, source.width))

    def run(frames: int, new_tokens: int) -> Any:
        drawn = DrawnFrames(frames, *settings.size)
        return measure(
            model,
            processor,
            video or drawn,
            settings.question,
            frames=frames,
            new_tokens=new_tokens,
        )

    say("warming up")
    run(min(_WARM_UP, *settings.frames), 2)
    encoder = toolkit.selector_encoder
    encodes = toolkit.selector.uses_embeddings or settings.fast_path
    frame_encoder = on_meta(encoder.load()) if encodes else None
    subject = _subject(
        empty_model(model.config, model.dtype),
        processor,
        toolkit.adapter,
        toolkit.selector,
        copy.deepcopy(active_module(toolkit.merger)).to("cpu"),
        frame_encoder,
        toolkit.encoder.dim if takes_text_embedding(active_module(toolkit.merger)) else None,
        settings,
    )
    lengths: list[LengthProfile] = []
    for frames in settings.frames:
        say(f"reading {frames:,} frames")
        measurement = run(frames, settings.new_tokens)
        say(f"counting {frames:,} frames")
        counts = count(subject, frames, measurement.keyframes, measurement.prompt)
        lengths.append(measured(counts, measurement))
    device = next(model.parameters()).device
    say("measuring a matrix product")
    rate = matrix_rate(device, model.dtype)
    profile = _profile(name, subject, lengths, encoder=encoder.name, device=str(device))
    return replace(profile, matrix_rate=rate)


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
        max_tokens=settings.max_tokens,
    )


def _profile(
    name: str, subject: Subject, lengths: Sequence[LengthProfile], *, encoder: str, device: str
) -> Profile:
    encodes = subject.encoder is not None
    return Profile(
        model=name,
        selector=registry.spec_of(subject.selector),
        merger=registry.spec_of(subject.merger),
        encoder=encoder if encodes else "",
        device=device,
        dtype=str(subject.model.dtype).removeprefix("torch."),
        weights=bytes_of(subject.model),
        encoder_weights=bytes_of(subject.encoder) if encodes else 0,
        lengths=tuple(lengths),
        settings={name: getattr(subject, name) for name in _READ},
        libraries={name: version(name) for name in _LIBRARIES},
        notes=tuple(_notes(subject, device)),
    )


def _notes(subject: Subject, device: str) -> list[str]:
    notes = []
    if subject.fast_path:
        notes.append("Non-keyframes are merged from the frame encoder's patches (the fast path).")
    if subject.adapter.placeholder_per_slice and device == "meta":
        notes.append("The text that this family writes around each slice is not counted.")
    if subject.prefill_chunk is not None:
        notes.append(
            f"The prompt is read {subject.prefill_chunk:,} tokens at a time, so no query attends "
            "to later chunks, which saves FLOPs. The stock model reads its prompt at once."
        )
    return notes
