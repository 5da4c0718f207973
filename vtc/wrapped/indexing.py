"""Fill the cache of a video for a wrapped model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtc.pipeline.call import Call
from vtc.pipeline.indexing import fill_cache
from vtc.wrapped.access import stock_model, toolkit_of
from vtc.wrapped.asking import prepare_inputs

if TYPE_CHECKING:
    from vtc.pipeline.report import CacheUse
    from vtc.video import VideoSource


def index_for_model(model: Any, processor: Any, source: VideoSource) -> tuple[CacheUse, ...]:
    """Fill the cache of a video for a wrapped model; see `vtc.pipeline.indexing.fill_cache`.

    It stores everything that later questions with the same parts look up: frame embeddings,
    encoder patches, merged tokens, and the vision tower's output if ``source`` caches it.

    Args:
        model, processor: As ``vtc.ask`` takes them.
        source: The video, with a cache.

    Raises:
        TypeError, ValueError: As for ``vtc.ask``; or the weights of a part are unknown.
        CacheError: A tensor cannot be stored.
        VideoError: The video cannot be read.
    """
    inputs = prepare_inputs(model, processor, source, "What is shown?")  # any question
    toolkit = toolkit_of(model)
    with toolkit.gate.call():
        return fill_cache(Call(stock_model(model), toolkit, inputs, generating=True))
