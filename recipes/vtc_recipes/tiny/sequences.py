"""Build the language model's input for compressed videos and questions from cached features.

The tokens equal those of a wrapped model (a test compares the two), but whole batches are computed
at once, and several questions share a video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vtc import TokenMerger
from vtc.wrapped.access import toolkit_of
from vtc_recipes.tiny.features import Features
from vtc_recipes.tiny.models import ASSISTANT, END, USER

_POOLED = 9


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
    """

    rows: Tensor
    keyframes: Tensor
    query: str
    embedding: Tensor
    turns: Sequence[tuple[str, str]]
    gaps: Tensor | None = None
    crowd: Tensor | None = None


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


@dataclass(frozen=True)
class Merges:
    """Distinct frames of several videos to merge.

    Attributes:
        videos: ``[n]`` int64, the video of each frame, ascending.
        patches: ``[n, P, D]`` float32, in the language model's space.
        references: ``[n, P, D]`` float32, patches of the keyframe before each frame.
        has_reference: ``[n]`` bool, whether there is such a keyframe.
        queries: ``[B, Dq]`` of the videos, or None for mergers that take none.
    """

    videos: Tensor
    patches: Tensor
    references: Tensor
    has_reference: Tensor
    queries: Tensor | None


def unsupported(merger: TokenMerger) -> Iterator[str]:
    """Yield the requirements of a merger that these sequences do not support."""
    frames, keyframes = torch.tensor([0, 2, 4, 5, 7]), torch.tensor([1, 3, 6])
    preceding = TokenMerger.reference_frames(merger, frames, keyframes)
    if not torch.equal(merger.reference_frames(frames, keyframes), preceding):
        yield "it uses references other than the preceding keyframe; training does not support them"
    if merger.query_source == "frame_encoder_raw":
        yield "it takes the query before normalisation, but training uses normalised queries"


def merge(merger: Any, merges: Merges) -> list[Tensor]:
    """Return the merger's tokens ``[T_i, D]`` of each frame."""
    if hasattr(merger, "merge_batch") and merges.queries is not None:
        queries = merges.queries[merges.videos]
        return list(
            merger.merge_batch(merges.patches, merges.references, merges.has_reference, queries)
        )
    tokens: list[Tensor] = []
    for video in sorted(set(merges.videos.tolist())):
        mask = merges.videos == video
        query = None if merges.queries is None else merges.queries[video]
        frames = (merges.patches[mask], merges.references[mask], merges.has_reference[mask])
        tokens += merger(*frames, query)
    return tokens


def video_tokens(
    vlm: Any, features: Features, dialogues: Sequence[Dialogue], queries: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the distinct visual tokens of a batch of videos, and their indices.

    Keyframes that share a row of the bank share their tokens; so do non-keyframes with the same
    row, query and reference. So most tokens are computed only once.

    Args:
        vlm: Wrapped model.
        features: Features of the bank; ``merged`` suits the model's connector.
        dialogues: Dialogues about videos of the same length, N frames.
        queries: ``[B, Dq]`` for the merger, or None.

    Returns:
        A table of tokens ``[T, D]``, and the first index and number of each frame's tokens in it,
        each ``[B, N]`` int64.
    """
    toolkit, device = toolkit_of(vlm), vlm.device
    projector = vlm.model.multi_modal_projector
    added: Any = toolkit.connector
    connector = getattr(added, "projectors", [added or projector])[0]
    rows, of_frames = torch.unique(torch.stack([d.rows for d in dialogues]), return_inverse=True)
    is_key = torch.zeros(of_frames.shape, dtype=torch.bool)
    for row, dialogue in zip(is_key, dialogues, strict=True):
        row[dialogue.keyframes] = True
    patches = features.kept[rows].to(device, torch.float32)
    (kept,), of_kept = _unique(of_frames[is_key][:, None])
    pooled = vlm.model.apply_pooling(projector(patches[kept])).flatten(0, 1)
    numbers = torch.arange(is_key.shape[1])
    before = torch.where(is_key, numbers, -1).cummax(1).values
    reference = torch.where(before >= 0, of_frames.gather(1, before.clamp(min=0)), -1)
    videos = torch.arange(len(is_key))[:, None].expand_as(is_key)
    (video, frame, key), of_merges = _unique(
        torch.stack([videos, of_frames, reference], -1)[~is_key]
    )
    with torch.autocast(device.type, enabled=False):  # bfloat16 is too coarse at temperature 0.01
        dense = connector(features.merged[rows].to(device, torch.float32))
        references, has_reference = dense[key.clamp(min=0)], (key >= 0).to(device)
        merges = Merges(video, dense[frame], references, has_reference, queries)
        merged = merge(toolkit.merger, merges)
    counts = torch.tensor([len(tokens) for tokens in merged], dtype=torch.int64)
    first = len(pooled) + counts.cumsum(0) - counts
    places, lengths = torch.empty_like(of_frames), torch.full_like(of_frames, _POOLED)
    places[is_key], places[~is_key] = of_kept * _POOLED, first[of_merges]
    lengths[~is_key] = counts[of_merges]
    return torch.cat([pooled.float(), *merged]), places, lengths


def _unique(rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the columns of the distinct rows of ``[n, c]``, and the index of each row in them."""
    distinct, numbers = torch.unique(rows, dim=0, return_inverse=True)
    return distinct.unbind(-1), numbers


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
