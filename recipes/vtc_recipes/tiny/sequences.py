"""Compressed videos and their questions as the language model's input, from cached features.

The tokens are those that a wrapped model makes of the same features (a test compares the two);
what differs is that a batch is computed at once, and that several questions share a video.
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
    """One video with questions that all are asked first.

    Attributes:
        rows: ``[N]`` int64, a row of the feature bank for each frame.
        keyframes: ``[K]`` int64, ascending.
        query: What the video is read for.
        embedding: ``[d]`` of length one, the query as the frame encoder embeds it.
        turns: Questions and their answers.
        gaps: ``[N]`` int64, positions that are left out before each frame, so that a short video
            is as far spread as a long one; None for none.
        crowd: ``[N]`` float32, as how many frames each counts where it is attended to, so that a
            short video is as crowded as a long one; None for one. Keyframes are never crowded.
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


@dataclass(frozen=True)
class Merges:
    """Frames of several videos to merge, each once.

    Attributes:
        videos: ``[n]`` int64, the video of each, ascending.
        patches: ``[n, P, D]``, in the language model's space.
        references: ``[n, P, D]``, the patches of each frame's keyframe before it.
        known: ``[n]`` bool: there is such a keyframe.
        queries: ``[B, Dq]`` of the videos, or None for mergers that take none.
    """

    videos: Tensor
    patches: Tensor
    references: Tensor
    known: Tensor
    queries: Tensor | None


def unsupported(merger: TokenMerger) -> Iterator[str]:
    """What a merger asks for that these sequences do not give it."""
    frames, keyframes = torch.tensor([0, 2, 4, 5, 7]), torch.tensor([1, 3, 6])
    preceding = TokenMerger.reference_frames(merger, frames, keyframes)
    if not torch.equal(merger.reference_frames(frames, keyframes), preceding):
        yield "frames are compared here with the keyframe before them, and it names others"
    if merger.query_source == "frame_encoder_raw":
        yield "the query here is of length one, and it takes it before it is scaled to that"


def merge(merger: Any, merges: Merges) -> list[Tensor]:
    """Return the tokens ``[T_i, D]`` of each frame, as the merger computes them."""
    if hasattr(merger, "merge_batch") and merges.queries is not None:
        queries = merges.queries[merges.videos]
        return list(merger.merge_batch(merges.patches, merges.references, merges.known, queries))
    tokens: list[Tensor] = []
    for video in sorted(set(merges.videos.tolist())):
        own = merges.videos == video
        query = None if merges.queries is None else merges.queries[video]
        tokens += merger(merges.patches[own], merges.references[own], merges.known[own], query)
    return tokens


def video_tokens(
    vlm: Any, features: Features, dialogues: Sequence[Dialogue], queries: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The visual tokens of a batch of videos, each once, and where they stand.

    Frames that share a row of the bank share their tokens: keyframes always, others where they
    have the query and the keyframe before them in common. So most are computed but once.

    Args:
        vlm: Wrapped.
        features: Of a bank; ``merged`` as the wrapped model's connector takes it.
        dialogues: Of videos that are all equally long, N frames.
        queries: ``[B, Dq]``, as the merger takes them.

    Returns:
        A table of tokens ``[T, D]``; for each frame, its first place in it and how many places
        from there are its own, ``[B, N]`` int64 each.
    """
    toolkit, device = toolkit_of(vlm), vlm.device
    projector = vlm.model.multi_modal_projector
    own: Any = toolkit.connector
    connector = getattr(own, "projectors", [own or projector])[0]
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
    different = torch.stack([videos, of_frames, reference], -1)[~is_key]
    (video, frame, key), of_merges = _unique(different)
    with torch.autocast(device.type, enabled=False):  # temperature 0.01 leaves bfloat16 no digits
        dense = connector(features.merged[rows].to(device, torch.float32))
        found = Merges(video, dense[frame], dense[key.clamp(min=0)], (key >= 0).to(device), queries)
        merged = merge(toolkit.merger, found)
    counts = torch.tensor([len(tokens) for tokens in merged])
    first = len(pooled) + counts.cumsum(0) - counts
    places, lengths = torch.empty_like(of_frames), torch.full_like(of_frames, _POOLED)
    places[is_key], places[~is_key] = of_kept * _POOLED, first[of_merges]
    lengths[~is_key] = counts[of_merges]
    return torch.cat([pooled.float(), *merged]), places, lengths


def _unique(rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The columns of the different rows ``[n, c]``, and which of them each row is."""
    different, which = torch.unique(rows, dim=0, return_inverse=True)
    return different.unbind(-1), which


def lay_out(
    places: Tensor, lengths: Tensor, gaps: Sequence[Tensor | None], last: int
) -> tuple[Tensor, Tensor]:
    """The tokens of each video in the order of time, padded on the left, and their positions.

    Args:
        places: ``[B, N]`` int64, as `video_tokens` gives them; so is ``lengths``.
        gaps: ``[N]`` int64 for each video: positions that are left out before each frame.
        last: The place of the token behind every video.

    Returns:
        Places ``[B, V]`` int64, -1 for padding, and positions ``[B, V]`` from 1; 0 for padding.
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
    # Padding on the left keeps every row's text at the same columns.
    return (
        pad_sequence(rows, batch_first=True, padding_value=-1).flip(1),
        pad_sequence(positions, batch_first=True, padding_value=0).flip(1),
    )


def forward(
    vlm: Any, tokenizer: Any, features: Features, dialogues: Sequence[Dialogue]
) -> tuple[Tensor, Tensor, TextBatch]:
    """Run the language model over a batch of videos that are all equally long.

    Args:
        vlm: Wrapped; its merger and connector make the tokens of merged frames.
        features: Of a bank; ``merged`` as the wrapped model's connector takes it.

    Returns:
        Logits ``[L, vocabulary]`` of the learned places, their labels ``[L]``, and the texts.
    """
    device, embed = vlm.device, vlm.get_input_embeddings()
    queries = _queries(vlm, tokenizer, dialogues)
    table, places, lengths = video_tokens(vlm, features, dialogues, queries)
    index, positions = lay_out(places, lengths, [d.gaps for d in dialogues], last=len(table))
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
    """What the merger takes for the queries, ``[B, Dq]``; None where it takes none."""
    source = toolkit_of(vlm).merger.query_source
    if source is None:
        return None
    if source == "frame_encoder":
        return torch.stack([dialogue.embedding for dialogue in dialogues]).to(vlm.device)
    table = vlm.get_input_embeddings()
    ids = [tokenizer(d.query, add_special_tokens=False)["input_ids"] for d in dialogues]
    return torch.stack([table(torch.tensor(row, device=vlm.device)).mean(0) for row in ids])


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


def _crowded(mask: Tensor, lengths: Tensor, dialogues: Sequence[Dialogue]) -> Tensor:
    """A mask to add: a token that counts as c tokens gets log c, for a softmax the same as c."""
    rows = []
    for length, dialogue in zip(lengths, dialogues, strict=True):
        crowd = torch.ones(len(length)) if dialogue.crowd is None else dialogue.crowd.clone()
        crowd[dialogue.keyframes] = 1
        rows.append(torch.repeat_interleave(crowd.log(), length).flip(0))
    visual = pad_sequence(rows, batch_first=True).flip(1)
    after = mask.shape[-1] - 1 - visual.shape[1]  # the user's mark is before them
    weight = F.pad(visual, (1, after)).to(mask.device)[:, None, None]
    return torch.where(mask, weight, float("-inf"))
