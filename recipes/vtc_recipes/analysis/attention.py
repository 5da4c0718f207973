"""Measure the attention from a question to the visual tokens, without keeping any L x L matrix.

The language model runs with an attention function registered with transformers, which computes
the usual attention with PyTorch's ``scaled_dot_product_attention`` and, for the rows of the
question's tokens alone, the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import vtc
from vtc.interfaces.prompts import needs_special_tokens
from vtc.wrapped.access import toolkit_of

if TYPE_CHECKING:
    from vtc.video import VideoSource

NAME = "vtc_question_attention"
_NO_INTERFACE = "it does not pass through transformers' attention interface"


@dataclass
class Collector:
    """Sums attention weights over heads and the rows of a question, for each layer.

    Attributes:
        rows: ``[R]`` int64, positions of the question's tokens.
        columns: ``[V]`` int64, positions of the visual tokens.
        layers: Numbers of the layers to measure; None for all.
        weights: ``[V]`` float64 by layer: the mean over the question's tokens and all heads.
    """

    rows: Tensor
    columns: Tensor
    layers: frozenset[int] | None = None
    weights: dict[int, Tensor] = field(default_factory=dict)

    def add(
        self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float
    ) -> None:
        """Measure one layer.

        Args:
            query: ``[1, H, L, d]``.
            key: ``[1, H', L, d]``; each head of it serves H / H' heads of the query.
            mask: ``[1, 1 or H, L, L]`` bool, or to be added; None for causal attention.
            scaling: Of the products.
        """
        rows = self.rows.to(query.device)
        groups = query.shape[1] // key.shape[1]
        if mask is None:
            mask = torch.arange(key.shape[2], device=query.device) <= rows[:, None]
        else:
            mask = mask[0, :, rows, : key.shape[2]]
        total = torch.zeros(key.shape[2], dtype=torch.float64, device=query.device)
        for head in range(key.shape[1]):  # the weights of one head's group are alive at a time
            several = slice(head * groups, (head + 1) * groups)
            scores = query[0, several, rows].float() @ key[0, head].float().T * scaling
            own = mask if mask.ndim == 2 or len(mask) == 1 else mask[several]
            if own.dtype == torch.bool:
                scores = scores.masked_fill(~own, -torch.inf)
            else:
                scores = scores + own
            total += scores.softmax(-1).sum((0, 1), dtype=torch.float64)
        mean = total / (query.shape[1] * len(rows))
        self.weights[layer] = mean[self.columns.to(mean.device)].cpu()


_collector: ContextVar[Collector | None] = ContextVar("vtc_question_attention", default=None)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> Any:
    """Attend as ``sdpa`` does, and tell the collector of this context."""
    collector = _collector.get()
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(
                f"the attention of {type(module).__name__} has {name}, which cannot be measured"
            )
    layer = getattr(module, "layer_idx", None)
    if collector is not None and layer is not None:
        if collector.layers is None or layer in collector.layers:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            collector.add(layer, query, key, attention_mask, scale)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **options
    )


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@dataclass(frozen=True)
class QuestionAttention:
    """What one question looks at.

    Attributes:
        weights: ``[layers, N, M]`` float64: attention to each token of N slices, averaged over the
            question's tokens and all heads of a layer.
        layers: Their numbers.
        tokens: ``[N, M, D]``, the visual tokens as the language model gets them.
        question_tokens: Number of the question's tokens.
        text_tokens: Number of all tokens that are not visual.
    """

    weights: Tensor
    layers: tuple[int, ...]
    tokens: Tensor
    question_tokens: int
    text_tokens: int


def check_family(model: Any) -> Any:
    """Return the language model of a wrapped model if its attention can be measured.

    Raises:
        ValueError: It cannot; the message says why.
    """
    decoder = model.get_decoder()
    name = type(decoder).__name__
    check = getattr(decoder, "_can_set_attn_implementation", None)
    if check is None or not check():
        raise ValueError(f"the attention of {name} cannot be measured: {_NO_INTERFACE}")
    return decoder


@torch.no_grad()
def question_attention(
    model: Any,
    processor: Any,
    source: VideoSource,
    question: str,
    layers: Sequence[int] | None = None,
) -> QuestionAttention:
    """Measure the attention from a question to all tokens of a video.

    Args:
        model: A wrapped model whose selector keeps every frame.
        processor: Its stock processor.
        source: The video.
        question: The question.
        layers: Layers of the language model, from 0; None for all that have attention.

    Raises:
        ValueError: The family cannot be measured, a frame was not kept, a layer does not exist or
            has no attention, or the question stands before the video in the prompt.
    """
    decoder, toolkit = check_family(model), toolkit_of(model)
    question = question.strip()
    inputs = vtc.prepare_inputs(model, processor, source, question)
    seen: dict[str, Tensor] = {}
    collector = Collector(
        torch.empty(0), torch.empty(0), None if layers is None else frozenset(layers)
    )

    def note_ids(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is not None and "columns" not in seen:
            seen["ids"] = ids[0]
            seen["columns"] = _visual_positions(model, ids[0])
            collector.columns = seen["columns"]
            prompt = toolkit.adapter.prompt(processor, question, source)
            collector.rows = question_positions(processor, prompt, question, ids[0])

    def note_tokens(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is not None and "columns" in seen:
            seen["tokens"] = embeddings[0, seen["columns"].to(embeddings.device)].clone()

    hooks = [
        model.base_model.register_forward_pre_hook(note_ids, with_kwargs=True),
        decoder.register_forward_pre_hook(note_tokens, with_kwargs=True),
    ]
    try:
        with _measuring(decoder, collector):
            model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    if not collector.weights or "tokens" not in seen:
        name = type(decoder).__name__
        raise ValueError(
            f"no attention of {name} was measured; it has no such layer"
            if layers
            else f"the attention of {name} cannot be measured: {_NO_INTERFACE}"
        )
    missing = sorted(set(layers or ()) - collector.weights.keys())
    if missing:
        raise ValueError(
            f"layer {missing[0]} does not exist or has no attention; measured: "
            f"{', '.join(map(str, sorted(collector.weights)))}"
        )
    report = vtc.last_report(model).videos[0]
    slices = report.frames // report.frames_per_slice
    if len(report.keyframes) != slices:
        raise ValueError(
            f"expected every frame to keep its tokens, got {len(report.keyframes)} of {slices}; "
            "select with uniform and as many keyframes as frames"
        )
    order = sorted(collector.weights)
    weights = torch.stack([collector.weights[layer] for layer in order])
    each = len(seen["columns"]) // slices
    return QuestionAttention(
        weights=weights.reshape(len(order), slices, each),
        layers=tuple(order),
        tokens=seen["tokens"].reshape(slices, each, -1),
        question_tokens=len(collector.rows),
        text_tokens=len(seen["ids"]) - len(seen["columns"]),
    )


@contextmanager
def _measuring(decoder: Any, collector: Collector) -> Iterator[None]:
    """Let a language model attend through `_attend`."""
    before = decoder.config._attn_implementation
    token = _collector.set(collector)
    decoder.set_attn_implementation(NAME)
    try:
        yield
    finally:
        _collector.reset(token)
        decoder.set_attn_implementation(before)


def _visual_positions(model: Any, ids: Tensor) -> Tensor:
    """Return the positions of a video's tokens, without those after the last frame."""
    adapter = toolkit_of(model).adapter
    positions = (ids == adapter.video_token_id(model)).nonzero().flatten()
    return positions[: len(positions) - adapter.tail_length()].cpu()


def question_positions(processor: Any, prompt: str, question: str, ids: Tensor) -> Tensor:
    """Return the positions ``[R]`` of the question's tokens, counted from the end of the prompt.

    Args:
        processor: The stock processor.
        prompt: The prompt with a placeholder for the video.
        question: The question in it.
        ids: ``[L]`` int64, the tokens of the prompt with those of the video.

    Raises:
        ValueError: The question is not in the prompt or stands before the video.
    """
    start = prompt.rfind(question)
    end = start + len(question)
    encoded = processor.tokenizer(
        prompt,
        add_special_tokens=needs_special_tokens(processor, prompt),
        return_offsets_mapping=True,
    )
    own = encoded["input_ids"]
    places = [
        number
        for number, (first, last) in enumerate(encoded["offset_mapping"])
        if first < end and last > start
    ]
    tokens, given = [own[place] for place in places], ids.tolist()
    positions = torch.tensor(places, dtype=torch.int64) - len(own) + len(ids)
    if start < 0 or [given[position] for position in positions.tolist()] != tokens:
        if start >= 0 and [given[place] for place in places] == tokens:
            raise ValueError(
                "the question stands before the video in this family's prompt, so it does not "
                "attend to the video"
            )
        raise ValueError(
            f"the question {question!r} was not found in the prompt of this family, so its tokens "
            "are unknown"
        )
    return positions
