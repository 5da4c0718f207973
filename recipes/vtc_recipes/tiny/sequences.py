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
        gaps: ``[N]`` int64, positions that are left out before each frame, so that a short video
            is as far spread as a long one; None for none.
    """

    rows: Tensor
    keyframes: Tensor
    query: str
    turns: Sequence[tuple[str, str]]
    gaps: Tensor | None = None


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


def merge_frames(
    patches: Tensor, references: Tensor, known: Tensor, queries: Tensor, options: Any
) -> Tensor:
    """Differential feature merging (Eq. 5-10 of ViLAMP) of frames of many videos at once.

    Args:
        patches: ``[n, P, D]``, in the language model's space.
        references: ``[n, P, D]``, the patches of each frame's keyframe before it.
        known: ``[n]`` bool: there is such a keyframe.
        queries: ``[n, D]``.
        options: Of ``dfm``: ``temperature`` (alpha) and ``redundancy_weight`` (lambda).

    Returns:
        ``[n, D]``.
    """
    relevance = F.cosine_similarity(patches, queries[:, None], dim=-1)
    likeness = F.cosine_similarity(patches, references, dim=-1) * known[:, None]
    saliency = relevance - options.redundancy_weight * likeness
    shares = (saliency / options.temperature).softmax(-1)
    return torch.einsum("np,npd->nd", shares, patches)


def video_tokens(
    vlm: Any, dense: Tensor, of_frames: Tensor, is_key: Tensor, queries: Tensor, options: Any
) -> tuple[Tensor, Tensor]:
    """The visual tokens of a batch of videos, each once, and where they stand.

    Frames that share a row of the bank share their tokens: keyframes always, others where they
    have the query and the keyframe before them in common. So most are computed but once.

    Args:
        dense: ``[U, 36, D]``, what the projector makes of the rows of the bank that occur.
        of_frames: ``[B, N]`` int64, each frame's place among those rows.
        is_key: ``[B, N]`` bool.
        queries: ``[B, D]``, the mean input embedding of each query.
        options: Of ``dfm``.

    Returns:
        A table of tokens ``[T, D]``, and for each frame its first place in it, ``[B, N]``:
        keyframes have nine places that follow one another, others one.
    """
    numbers = torch.arange(is_key.shape[1])
    before = torch.where(is_key, numbers, -1).cummax(1).values
    reference = torch.where(before >= 0, of_frames.gather(1, before.clamp(min=0)), -1)
    video = torch.arange(len(is_key))[:, None].expand_as(is_key)
    merges = torch.stack([video, of_frames, reference], -1)[~is_key]
    (row, frame, key), of_merges = _unique(merges)
    merged = merge_frames(dense[frame], dense[key.clamp(min=0)], key >= 0, queries[row], options)
    (kept,), of_kept = _unique(of_frames[is_key][:, None])
    pooled = vlm.model.apply_pooling(dense[kept]).flatten(0, 1)
    places = torch.empty_like(of_frames)
    places[is_key] = of_kept * _POOLED
    places[~is_key] = of_merges + len(pooled)
    return torch.cat([pooled, merged.to(pooled.dtype)]), places


def _unique(rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The columns of the different rows ``[n, c]``, and which of them each row is."""
    different, which = torch.unique(rows, dim=0, return_inverse=True)
    return different.unbind(-1), which


def lay_out(
    places: Tensor, is_key: Tensor, gaps: Sequence[Tensor], last: int
) -> tuple[Tensor, Tensor]:
    """The tokens of each video in the order of time, padded on the left, and their positions.

    Args:
        places: ``[B, N]`` int64, as `video_tokens` gives them.
        is_key: ``[B, N]`` bool.
        gaps: ``[N]`` int64 for each video: positions that are left out before each frame.
        last: The place of the token behind every video.

    Returns:
        Places ``[B, V]`` int64, -1 for padding, and positions ``[B, V]`` from 1; 0 for padding.
    """
    rows, positions = [], []
    for keys, first, gap in zip(is_key, places, gaps, strict=True):
        lengths = torch.where(keys, _POOLED, 1)
        starts = lengths.cumsum(0) - lengths
        within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(starts, lengths)
        row = torch.repeat_interleave(first, lengths) + within
        position = torch.repeat_interleave(starts + gap.cumsum(0) + 1, lengths) + within
        rows.append(torch.cat([row, torch.tensor([last])]).flip(0))
        positions.append(torch.cat([position, position[-1:] + 1]).flip(0))
    # Padding on the left keeps every row's text at the same columns.
    return (
        pad_sequence(rows, batch_first=True, padding_value=-1).flip(1),
        pad_sequence(positions, batch_first=True, padding_value=0).flip(1),
    )


def forward(
    vlm: Any, tokenizer: Any, features: Tensor, dialogues: Sequence[Dialogue], options: Any
) -> tuple[Tensor, Tensor, TextBatch]:
    """Run the language model over a batch of videos that are all equally long.

    Args:
        features: ``[rows, 36, 96]``, the patches of a feature bank.
        options: Of ``dfm``.

    Returns:
        Logits ``[L, vocabulary]`` of the learned places, their labels ``[L]``, and the texts.
    """
    device, embed = vlm.device, vlm.get_input_embeddings()
    rows, of_frames = torch.unique(
        torch.stack([one.rows for one in dialogues]), return_inverse=True
    )
    is_key = torch.zeros(of_frames.shape, dtype=torch.bool)
    for row, dialogue in zip(is_key, dialogues, strict=True):
        row[dialogue.keyframes] = True
    dense = vlm.model.multi_modal_projector(features[rows].to(device, torch.float32))
    queries = torch.stack([_query(tokenizer, embed, d.query) for d in dialogues])
    with torch.autocast(device.type, enabled=False):  # temperature 0.01 leaves bfloat16 no digits
        table, places = video_tokens(
            vlm, dense.float(), of_frames, is_key, queries.float(), options
        )
    gaps = [d.gaps if d.gaps is not None else torch.zeros_like(d.rows) for d in dialogues]
    index, positions = lay_out(places, is_key, gaps, last=len(table))
    table = torch.cat([table, vlm.model.image_newline[None]])
    texts = collate_texts(tokenizer, dialogues)
    user = embed(torch.tensor([tokenizer.convert_tokens_to_ids(USER)], device=device))
    # The user's mark stands before the video; left padding lies between the two and is masked.
    inputs = torch.cat(
        [
            user.expand(len(dialogues), 1, -1),
            table[index.clamp(min=0).to(device)],
            embed(texts.ids.to(device)),
        ],
        dim=1,
    )
    positions = torch.cat([positions, 1 + positions[:, -1:] + texts.places], 1)
    mask = _mask(F.pad(index < 0, (1, 0)), texts.turns).to(device)
    states = vlm.model.language_model(
        inputs_embeds=inputs,
        position_ids=F.pad(positions, (1, 0)).to(device),
        attention_mask={"full_attention": mask},
        use_cache=False,
    ).last_hidden_state[:, index.shape[1] + 1 :]
    learned = texts.labels != -100
    return vlm.lm_head(states[learned.to(device)]), texts.labels[learned].to(device), texts


def _query(tokenizer: Any, embed: Any, text: str) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    mean: Tensor = embed(torch.tensor(ids, device=embed.weight.device)).mean(0)
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
