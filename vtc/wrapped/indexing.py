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
    """Store what a wrapped model can cache of a video: see `vtc.pipeline.indexing.fill_cache`.

    That is what a question with the same parts looks for: frame embeddings, encoder patches,
    merged tokens, and the output of the vision tower if ``source`` keeps it.

    Args:
        model, processor: As ``vtc.ask`` takes them.
        source: With a cache.

    Raises:
        TypeError, ValueError: As ``vtc.ask``; the weights of a part are unknown.
        CacheError: Something cannot be stored.
        VideoError: The video cannot be read.
    """
    inputs = prepare_inputs(model, processor, source, "What is shown?")  # any question
    toolkit = toolkit_of(model)
    with toolkit.gate.call():
        return fill_cache(Call(stock_model(model), toolkit, inputs, generating=True))
