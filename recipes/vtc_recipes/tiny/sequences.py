"""Compressed videos and their questions as the language model's input, from cached features.

The tokens are those that a wrapped model makes of the same features (a test compares the two);
what differs is that a batch is computed at once, and that several questions share a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vtc_recipes.tiny.models import ASSISTANT, END, USER

_POOLED = 9


@dataclass(frozen=True)
class Dialogue:
    """One video with questions that all are asked first.

    Attributes:
        rows: ``[N]`` int64, a row of the feature bank for each frame.
        keyframes: ``[K]`` int64, ascending.
        query: What the video is read for, as the merger takes it.
        turns: Questions and their answers.
    """

    rows: Tensor
    keyframes: Tensor
    query: str
    turns: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TextBatch:
    """The texts behind the videos of a batch, padded on the right.

    Attributes:
        ids: ``[B, T]`` int64.
        turns: ``[B, T]`` int64, the turn of each token from 1; 0 for padding.
        places: ``[B, T]`` int64, each token's position behind the video, from 0 in every turn.
        labels: ``[B, T]`` int64: what shall follow each token; -100 where nothing is learned.
    """

    ids: Tensor
    turns: Tensor
    places: Tensor
    labels: Tensor


def collate_texts(tokenizer: Any, dialogues: Sequence[Dialogue]) -> TextBatch:
    """Tokens of all turns: question, marks, answer; only answers and their end are learned."""
    columns: list[list[Tensor]] = [[], [], [], []]
    for dialogue in dialogues:
        parts = [_turn(tokenizer, *turn) for turn in dialogue.turns]
        numbers = [torch.full_like(ids, n) for n, (ids, _) in enumerate(parts, 1)]
        columns[0].append(torch.cat([ids for ids, _ in parts]))
        columns[1].append(torch.cat(numbers))
        columns[2].append(torch.cat([torch.arange(len(ids)) for ids, _ in parts]))
        columns[3].append(torch.cat([labels for _, labels in parts]))
    fills = (tokenizer.pad_token_id, 0, 0, -100)
    padded = [
        pad_sequence(column, batch_first=True, padding_value=fill)
        for column, fill in zip(columns, fills, strict=True)
    ]
    return TextBatch(*padded)


def _turn(tokenizer: Any, question: str, answer: str) -> tuple[Tensor, Tensor]:
    asked = tokenizer(f"{question}{END}{ASSISTANT}", add_special_tokens=False)["input_ids"]
    answered = tokenizer(f"{answer}{END}", add_special_tokens=False)["input_ids"]
    ids = torch.tensor(asked + answered[:-1])  # nothing follows the end
    labels = torch.full_like(ids, -100)
    labels[len(asked) - 1 :] = torch.tensor(answered)
    return ids, labels


def merge_batch(
    patches: Tensor, is_key: Tensor, queries: Tensor, temperature: float, weight: float
) -> Tensor:
    """Differential feature merging (Eq. 5-10 of ViLAMP) of whole batches.

    Args:
        patches: ``[B, N, P, D]``, in the language model's space.
        is_key: ``[B, N]`` bool.
        queries: ``[B, D]``.
        temperature: alpha.
        weight: lambda.

    Returns:
        ``[B, N, D]``; rows of keyframes mean nothing.
    """
    numbers = torch.arange(patches.shape[1])
    before = torch.where(is_key, numbers, -1).cummax(1).values
    relevance = F.cosine_similarity(patches, queries[:, None, None], dim=-1)
    unit = F.normalize(patches, dim=-1)
    batch = torch.arange(len(patches))[:, None]
    likeness = (unit * unit[batch, before.clamp(min=0)]).sum(-1)
    saliency = relevance - weight * likeness * (before >= 0)[..., None]
    shares = (saliency / temperature).softmax(-1)
    return (shares[..., None] * patches).sum(2)


def video_tokens(
    vlm: Any, dense: Tensor, is_key: Tensor, queries: Tensor, temperature: float, weight: float
) -> tuple[Tensor, Tensor]:
    """The visual tokens of a batch of videos, in the order of time, padded on the left.

    Args:
        dense: ``[B, N, 36, D]``, what the projector returns.
        is_key: ``[B, N]`` bool.
        queries: ``[B, D]``, the mean input embedding of each query.

    Returns:
        ``[B, V, D]``, and which are padding, ``[B, V]`` bool.
    """
    inner = vlm.model
    merged = merge_batch(dense, is_key, queries, temperature, weight)
    pooled = inner.apply_pooling(dense[is_key])
    # One table of all tokens, and an index into it for each place of each row.
    table = torch.cat([pooled.flatten(0, 1), merged.flatten(0, 1), inner.image_newline[None]])
    rows, starts, frames = [], 0, is_key.shape[1]
    for number, keys in enumerate(is_key):
        lengths = torch.where(keys, _POOLED, 1)
        slots = torch.repeat_interleave(torch.arange(frames), lengths)
        first_pooled = starts + (keys.long().cumsum(0) - 1) * _POOLED
        within = torch.arange(len(slots)) - (lengths.cumsum(0) - lengths)[slots]
        of_merged = len(pooled) * _POOLED + number * frames + slots
        index = torch.where(keys[slots], first_pooled[slots] + within, of_merged)
        rows.append(torch.cat([index, torch.tensor([len(table) - 1])]).flip(0))
        starts += int(keys.sum()) * _POOLED
    # Padding on the left keeps every row's text at the same columns.
    index = pad_sequence(rows, batch_first=True, padding_value=-1).flip(1)
    return table[index.clamp(min=0)], index < 0


def forward(
    vlm: Any, tokenizer: Any, features: Tensor, dialogues: Sequence[Dialogue], merger: Any
) -> tuple[Tensor, Tensor, TextBatch]:
    """Run the language model over a batch.

    Args:
        features: ``[rows, 36, 96]``, the patches of a feature bank.
        merger: The options of ``dfm``: ``temperature`` and ``redundancy_weight``.

    Returns:
        Logits ``[L, vocabulary]`` of the learned places, their labels ``[L]``, and the texts.
    """
    embed = vlm.get_input_embeddings()
    # Frames that follow one another share a row of the bank, which is projected once.
    rows, of_frames = torch.unique(
        torch.stack([one.rows for one in dialogues]), return_inverse=True
    )
    dense = vlm.model.multi_modal_projector(features[rows].float())[of_frames]
    is_key = torch.zeros(of_frames.shape, dtype=torch.bool)
    for row, dialogue in zip(is_key, dialogues, strict=True):
        row[dialogue.keyframes] = True
    queries = torch.stack([_query(tokenizer, embed, d.query) for d in dialogues])
    visual, padding = video_tokens(
        vlm, dense, is_key, queries, merger.temperature, merger.redundancy_weight
    )
    texts = collate_texts(tokenizer, dialogues)
    user = embed(torch.tensor([tokenizer.convert_tokens_to_ids(USER)]))
    # The user's mark stands before the video; left padding lies before both and is masked.
    start = user.expand(len(dialogues), 1, -1)
    inputs = torch.cat([start, visual, embed(texts.ids)], dim=1)
    counted = (~padding).long().cumsum(1)
    places = F.pad(torch.cat([counted, 1 + counted[:, -1:] + texts.places], 1), (1, 0))
    states = vlm.model.language_model(
        inputs_embeds=inputs,
        position_ids=places,
        attention_mask={"full_attention": _mask(F.pad(padding, (1, 0)), texts.turns)},
        use_cache=False,
    ).last_hidden_state[:, inputs.shape[1] - texts.ids.shape[1] :]
    learned = texts.labels != -100
    return vlm.lm_head(states[learned]), texts.labels[learned], texts


def _query(tokenizer: Any, embed: Any, text: str) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    mean: Tensor = embed(torch.tensor(ids)).mean(0)
    return mean


def _mask(padding: Tensor, turns: Tensor) -> Tensor:
    """``[B, 1, L, L]`` bool: each token sees the video and its own turn up to itself."""
    seen = F.pad(turns, (padding.shape[1], 0))
    hidden = F.pad(padding, (0, turns.shape[1])) | F.pad(turns == 0, (padding.shape[1], 0))
    length = seen.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (seen[:, None, :] == 0) | (seen[:, None, :] == seen[:, :, None])
    allowed = causal & same & ~hidden[:, None, :]
    # A row that sees nothing would be NaN: padding sees itself.
    return (allowed | torch.eye(length, dtype=torch.bool))[:, None]
