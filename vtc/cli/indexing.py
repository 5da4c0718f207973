"""Choose what ``vtc index`` computes for a video, depending on the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtc.cli.models import ModelOptions

if TYPE_CHECKING:
    from vtc.pipeline.report import CacheUse
    from vtc.video import VideoSource

Indexer = Callable[["VideoSource", Any], "Sequence[CacheUse]"]
"""Called with a video that has a cache, and a callback for progress."""
_WITHOUT_MODEL = {"encoder", "device"}


@dataclass(frozen=True, kw_only=True)
class IndexedModel(ModelOptions):
    """The model, with its parts, that videos are indexed for."""

    model: Annotated[
        str,
        typer.Option(
            help="Index for this model: its frames, with its frame encoder.",
            show_default=False,
        ),
    ] = ""

    def indexer(self, cache_tower: bool, quiet: bool) -> Indexer:
        """Return the function that indexes a video; load the model only if it is needed.

        Raises:
            ValueError: An option needs ``--model``; or as for `open`.
            ImportError, OSError: As for `open`.
        """
        if not self.model:
            self._check_without_model(cache_tower)
            return self._embed_frames(None, 1)
        import transformers

        from vtc.pipeline.video_store import merges_alone
        from vtc.plugins import registry
        from vtc.wrapped.opening import open_shape, saved_parts

        transformers.utils.logging.disable_progress_bar()
        saved = saved_parts(self.model)
        merger = registry.build_part("merger", self.merger_choice.spec(saved["merger"]))
        keeps_tokens = merges_alone(merger) and self.budget_spec is None
        if cache_tower or keeps_tokens or saved.get("connector") == "encoder_patches":
            return self._index_for_model(quiet)
        selector = registry.build_part("selector", self.selector_choice.spec(saved["selector"]))
        shape, _ = open_shape(self.model)
        adapter = registry.adapter_for(getattr(shape, "config", shape).model_type)
        encoder = selector.encoder or self.encoder or saved["encoder"]
        return self._embed_frames(encoder, adapter.frames_per_slice)

    def _check_without_model(self, cache_tower: bool) -> None:
        names = [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(type(self)(), field.name)
            and field.name not in _WITHOUT_MODEL
        ]
        names += ["--cache-tower"] if cache_tower else []
        if names:
            raise ValueError(f"expected --model with {', '.join(names)}, got none")

    def _embed_frames(self, encoder: str | None, stride: int) -> Indexer:
        from vtc.encoders.device import pick_device
        from vtc.encoders.lazy import LazyEncoder
        from vtc.pipeline.indexing import index_video
        from vtc.wrapped.opening import DEFAULT_ENCODER

        name = encoder or self.encoder or DEFAULT_ENCODER
        lazy = LazyEncoder(name, device=pick_device(self.device))
        return lambda source, progress: [index_video(source, lazy, stride, progress)]

    def _index_for_model(self, quiet: bool) -> Indexer:
        from vtc.wrapped.access import toolkit_of
        from vtc.wrapped.indexing import index_for_model

        model, processor = self.open(quiet)

        def index(source: VideoSource, progress: Any) -> Sequence[CacheUse]:
            toolkit_of(model).progress = progress
            return index_for_model(model, processor, source)

        return index
