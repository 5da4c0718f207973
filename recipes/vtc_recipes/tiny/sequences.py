"""Build the language model's input for compressed videos and questions from cached features.

The tokens equal those of a wrapped model (a test compares the two), but whole batches are computed
at once, and several questions share a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vtc.wrapped.access import toolkit_of
from vtc_recipes.tiny.features import Features
from vtc_recipes.tiny.models import ASSISTANT, END, USER
from vtc_recipes.tiny.visual import video_tokens


@dataclass(frozen=True)
class Dialogue:
    """One video with several questions, each independent of the others.

    Attributes:
        rows: ``[N]`` int64, a row of the feature bank for each frame.
        keyframes: ``[K]`` int64, ascending.
        query: The query for selecting and merging frames.
        embedding: ``[d]`` float32 of length one, the frame encoder's embedding of the query.
        turns: The questions with their answers.
        gaps: ``[N]`` int64, positions skipped before each frame, so that a short video spans
            as many positions as a long one; None for no gaps.
        crowd: ``[N]`` float32, the number of frames that each frame counts for in attention, so
            that a short video competes like a long one; None for one. Keyframes always count once.
        tokens: ``[N]`` int64, the number of each non-keyframe's tokens, as
            `vtc.TokenBudget.allocate` returns it; None for one token each.
    """

    rows: Tensor
    keyframes: Tensor
    query: str
    embedding: Tensor
    turns: Sequence[tuple[str, str]]
    gaps: Tensor | None = None
    crowd: Tensor | None = None
    tokens: Tensor | None = None


@dataclass(frozen=True)
class TextBatch:
    """The texts after the videos of a batch, padded on the right.

    Attributes:
        ids: ``[B, T]`` int64.
        turns: ``[B, T]`` int64, the turn of each token from 1; 0 for padding.
        places: ``[B, T]`` int64, each token's position after the video, from 0 in every turn.
        labels: ``[B, T]`` int64, the next token; -100 for tokens without a loss.
    """

    ids: Tensor
    turns: Tensor
    places: Tensor
    labels: Tensor


def collate_texts(tokenizer: Any, dialogues: Sequence[Dialogue]) -> TextBatch:
    """Tokenize all turns: question, marks, answer; only answers and end marks have labels."""
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
    prompt = tokenizer(f"{question}{END}{ASSISTANT}", add_special_tokens=False)["input_ids"]
    target = tokenizer(f"{answer}{END}", add_special_tokens=False)["input_ids"]
    ids = torch.tensor(prompt + target[:-1])  # nothing follows the end
    labels = torch.full_like(ids, -100)
    labels[len(prompt) - 1 :] = torch.tensor(target)
    return ids, labels


def lay_out(
    places: Tensor, lengths: Tensor, gaps: Sequence[Tensor | None], last: int
) -> tuple[Tensor, Tensor]:
    """Lay out the tokens of each video in temporal order, padded on the left.

    Args:
        places: ``[B, N]`` int64, first index of each frame's tokens; see `video_tokens`.
        lengths: ``[B, N]`` int64, number of each frame's tokens.
        gaps: ``[N]`` int64 for each video, positions skipped before each frame, or None.
        last: Index of the token that follows every video.

    Returns:
        Indices ``[B, V]`` int64, -1 for padding, and positions ``[B, V]`` from 1; 0 for padding.
    """
    rows, positions = [], []
    for first, length, gap in zip(places, lengths, gaps, strict=True):
        starts = length.cumsum(0) - length
        within = torch.arange(int(length.sum())) - torch.repeat_interleave(starts, length)
        row = torch.repeat_interleave(first, length) + within
        moved = starts + 1 if gap is None else starts + 1 + gap.cumsum(0)
        position = torch.repeat_interleave(moved, length) + within
        end = position[-1:] + 1 if len(position) else torch.ones(1, dtype=torch.int64)
        rows.append(torch.cat([row, torch.tensor([last])]).flip(0))
        positions.append(torch.cat([position, end]).flip(0))
    # Padding on the left keeps every row's text in the same columns.
    return (
        pad_sequence(rows, batch_first=True, padding_value=-1).flip(1),
        pad_sequence(positions, batch_first=True, padding_value=0).flip(1),
    )


def forward(
    vlm: Any, tokenizer: Any, features: Features, dialogues: Sequence[Dialogue]
) -> tuple[Tensor, Tensor, TextBatch]:
    """Run the language model on a batch of videos of the same length.

    Args:
        vlm: Wrapped model; its merger and connector compute the tokens of merged frames.
        tokenizer: Its tokenizer.
        features: Features of the bank; ``merged`` suits the model's connector.
        dialogues: The videos and their questions.

    Returns:
        Logits ``[L, vocabulary]`` of the learned tokens, their labels ``[L]``, and the texts.
    """
    device, embed = vlm.device, vlm.get_input_embeddings()
    queries = _queries(vlm, tokenizer, dialogues)
    table, places, lengths = video_tokens(vlm, features, dialogues, queries)
    index, positions = lay_out(places, lengths, [d.gaps for d in dialogues], last=len(table))
    table = torch.cat([table, vlm.model.image_newline[None]])
    texts = collate_texts(tokenizer, dialogues)
    user = embed(torch.tensor([tokenizer.convert_tokens_to_ids(USER)], device=device))
    # The user mark comes before the video; the left padding between the two is masked.
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
    if any(dialogue.crowd is not None for dialogue in dialogues):
        mask = _crowded(mask, lengths, dialogues)
    states = vlm.model.language_model(
        inputs_embeds=inputs,
        position_ids=F.pad(positions, (1, 0)).to(device),
        attention_mask={"full_attention": mask},
        use_cache=False,
    ).last_hidden_state[:, index.shape[1] + 1 :]
    learned = texts.labels != -100
    return vlm.lm_head(states[learned.to(device)]), texts.labels[learned].to(device), texts


def _queries(vlm: Any, tokenizer: Any, dialogues: Sequence[Dialogue]) -> Tensor | None:
    """Return the queries for the merger, ``[B, Dq]``; None if it takes none."""
    source = toolkit_of(vlm).merger.query_source
    if source is None:
        return None
    if source == "frame_encoder":
        return torch.stack([dialogue.embedding for dialogue in dialogues]).to(vlm.device)
    table = vlm.get_input_embeddings()
    ids = [tokenizer(d.query, add_special_tokens=False)["input_ids"] for d in dialogues]
    return torch.stack([table(torch.tensor(row, device=vlm.device)).mean(0) for row in ids])


def _mask(padding: Tensor, turns: Tensor) -> Tensor:
    """Return a mask ``[B, 1, L, L]`` bool: tokens attend to the video and to their own turn."""
    turn = F.pad(turns, (padding.shape[1], 0))
    hidden = F.pad(padding, (0, turns.shape[1])) | F.pad(turns == 0, (padding.shape[1], 0))
    length = turn.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (turn[:, None, :] == 0) | (turn[:, None, :] == turn[:, :, None])
    allowed = causal & same & ~hidden[:, None, :]
    # Padding attends to itself, because an empty row would yield NaN.
    return (allowed | torch.eye(length, dtype=torch.bool))[:, None]


def _crowded(mask: Tensor, lengths: Tensor, dialogues: Sequence[Dialogue]) -> Tensor:
    """Return an additive mask: log c makes a token count for c tokens in the softmax."""
    rows = []
    for length, dialogue in zip(lengths, dialogues, strict=True):
        crowd = torch.ones(len(length)) if dialogue.crowd is None else dialogue.crowd.clone()
        crowd[dialogue.keyframes] = 1
        rows.append(torch.repeat_interleave(crowd.log(), length).flip(0))
    visual = pad_sequence(rows, batch_first=True).flip(1)
    after = mask.shape[-1] - 1 - visual.shape[1]  # the user mark comes first
    weight = F.pad(visual, (1, after)).to(mask.device)[:, None, None]
    return torch.where(mask, weight, float("-inf"))
