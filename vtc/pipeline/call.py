"""The state of one call of a wrapped model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.interfaces.token_pruner import TokenPruner
from vtc.pipeline.connector import Connector, PatchConnector, model_with_projectors
from vtc.pipeline.kv_cache import cached_length, given_cache
from vtc.pipeline.modules import active_module, input_device
from vtc.pipeline.report import Recorder, Report

if TYPE_CHECKING:
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pipeline.toolkit import Toolkit


class Call:
    """The state of one ``generate`` or ``forward`` of a wrapped model.

    A call reads the model and its toolkit once, at its start, and writes to neither. All that it
    computes is here or in local variables, so that any number of calls can share a model.

    Attributes:
        model: The stock model inside, as `vtc.wrapped.access.stock_model` returns it.
        inputs: The caller's arguments, by name. If ``forward`` continues from a cache, their
            ``attention_mask`` covers the new tokens only.
        cached_mask: ``[B, cached]``, the columns of the mask that belong to the cache; None if
            nothing is cached, or for ``generate``, whose ``input_ids`` include the cached tokens.
        generating: Whether this is a call of ``generate``, not of ``forward``.
        new_tokens: The maximum number of tokens of the answer.
        spans: The videos of all rows, once they are located.
        start: The number of ``input_ids`` columns that the cache holds.
        cached: The number of tokens that the cache holds.
        cached_offsets: ``[B, 1]`` int64, the offsets of positions after the cache, see
            `vtc.pipeline.kv_cache.note_offsets`; None if the cache has none.
        adapter, selector, merger, budget, connector: The parts and the connector of this call.
        encoder, selector_encoder: The frame encoders that mergers and selectors use.
        merged_model: A view of the model with the connector's projectors; ``model`` without one.
        report, recorder: The report of the call, and the object that fills it.
    """

    def __init__(
        self,
        model: Any,
        toolkit: Toolkit,
        inputs: Mapping[str, Any],
        generating: bool = False,
        new_tokens: int = 0,
    ) -> None:
        self.model = model
        self.generating = generating
        self.new_tokens = new_tokens
        self.spans: list[VideoSpan] = []
        cache = given_cache(inputs)
        self.cached = cached_length(cache)
        self.start = self.cached if generating else 0  # forward takes the new ids only
        self.cached_offsets: Tensor | None = getattr(cache, "vtc_offsets", None)
        self.inputs, self.cached_mask = _split_mask(inputs, 0 if generating else self.cached)

        self.adapter = toolkit.adapter
        self.selector = toolkit.selector
        self.merger: Any = active_module(toolkit.merger)
        self.connector: Any = active_module(toolkit.connector)
        self.budget = toolkit.budget
        self.processor = toolkit.processor
        self.chunk_slices = toolkit.chunk_slices
        self.prefill_chunk = toolkit.prefill_chunk
        self.heat_frames = toolkit.heat_frames
        self.device = input_device(model)
        self.encoder, self.selector_encoder = toolkit.encoders_on(self.device)
        self.merged_model = model
        if isinstance(self.connector, Connector):
            self.merged_model = model_with_projectors(model, self.connector)

        selector, merger = toolkit.describe(self.selector), toolkit.describe(self.merger)
        self.selector_name, self.merger_name = str(selector["name"]), str(merger["name"])
        budget = None if self.budget is None else toolkit.describe(self.budget)
        self.report = Report(selector=selector, merger=merger, budget=budget)
        self.recorder = Recorder(self.report, toolkit.progress)
        self._toolkit = toolkit

    def warn_of_untrained(self) -> None:
        """Report untrained components, except in a training step, which may be their first."""
        if not torch.is_grad_enabled():
            self.recorder.warn(*self._toolkit.untrained_warnings())

    @property
    def merges_encoder_patches(self) -> bool:
        """Whether non-keyframes are merged from the frame encoder's patches."""
        return isinstance(self.connector, PatchConnector)

    @property
    def uses_saliency(self) -> bool:
        """Whether the merger takes the saliency of the vision tower."""
        return isinstance(self.merger, TokenPruner) and self.merger.uses_saliency

    @property
    def reads_all_frames(self) -> bool:
        """Whether the frame encoder sees every frame."""
        return self.selector.uses_embeddings or self.merges_encoder_patches

    @property
    def needs_query(self) -> bool:
        """Whether a part of this call takes a query."""
        return self.selector.uses_query or self.merger.query_source is not None


def _split_mask(inputs: Mapping[str, Any], cached: int) -> tuple[Mapping[str, Any], Tensor | None]:
    """Split the attention mask into cached and new columns."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if cached == 0 or ids is None:
        return inputs, None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != cached + ids.shape[1]:
        return inputs, ids.new_ones(len(ids), cached)
    return {**inputs, "attention_mask": mask[:, cached:]}, mask[:, :cached]
