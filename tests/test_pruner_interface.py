"""Pruners and the frame before: own places in M-RoPE, deepstack, chunks, budgets, messages."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from family_models import CONTRACTS, built
from torch import Tensor

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare

SLICES = 8
QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"]


class Chosen(vtc.FrameSelector):
    """Takes the keyframes that a test says."""

    uses_query = uses_embeddings = False

    def __init__(self, *keyframes):
        super().__init__()
        self.keyframes = keyframes

    def select(self, embeddings, query=None, timestamps=None):
        return vtc.Selection(torch.tensor(self.keyframes, dtype=torch.int64), None)


class Fixed(vtc.TokenBudget):
    """Gives what a test says."""

    max_tokens = 10**6  # type: ignore[assignment]

    def __init__(self, *tokens):
        super().__init__()
        self.tokens = torch.tensor(tokens)

    def allocate(self, statistics, total):
        return self.tokens


def case(family, merger, keyframes, budget=None, chunk=16):
    """A wrapped float64 model, its inputs of one video, and what the stock tower makes of it."""
    contract = CONTRACTS[family]
    model, processor = copy.deepcopy(built(family)[0]), built(family)[1]
    each = 2 if family in QWEN else 1
    inputs = contract.inputs(processor, [contract.video(SLICES * each, 1)], ["What is red?"])
    inputs = {
        name: one.double() if isinstance(one, Tensor) and one.is_floating_point() else one
        for name, one in inputs.items()
    }
    with torch.no_grad():
        whole, dense, tail = contract.reference(model.double(), inputs, 0)[:3]
        deep = contract.deepstack(model, inputs, 0)
        places = contract.positions(model, inputs, 0)
    with pytest.warns(UserWarning, match="not registered"):
        vtc.wrap(model, Chosen(*keyframes), merger, processor=processor, budget=budget)
    model.vtc.chunk_slices = chunk
    return model, inputs, whole, dense, tail, deep, places


def prepared(model, inputs):
    with torch.no_grad():
        return prepare(Call(model, model.vtc, inputs)).inputs


def features(model, inputs):
    """The tokens ``[F, D]`` that the language model gets, and those of each layer of deepstack."""
    (rows,) = inputs["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output
    tokens, *deep = torch.split(rows, model.get_input_embeddings().embedding_dim, dim=-1)
    return tokens, deep


def close(tokens, expected):
    """Equal up to the rounding of a vision tower that sees other slices together."""
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=1e-6)


class Newness(vtc.TokenMerger):
    """The mean of what the frame before lacks, or of the frame."""

    query_source = None
    uses_previous_frame = True

    def forward(self, patches, reference, has_reference, query):
        known = torch.where(has_reference[:, None, None], reference, 0.0)
        return (patches - known).mean(1, keepdim=True)


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
@pytest.mark.parametrize("keyframes", [(), (2, 6)])
def test_the_frame_before_is_the_reference_in_any_chunks(family, keyframes, chunk):
    model, inputs, whole, dense, tail, *_ = case(family, Newness(), keyframes, chunk=chunk)
    tokens, _ = features(model, prepared(model, inputs))
    expected = []
    for n in range(SLICES):
        before = dense[n - 1] if n else torch.zeros_like(dense[0])
        expected += list(whole[n]) if n in keyframes else [(dense[n] - before).mean(0)]
    expected = torch.cat([torch.stack(expected), tail.reshape(-1, whole.shape[-1])])
    close(tokens, expected)


class Least(vtc.TokenPruner):
    """Keeps the tokens least like those of the frame before."""

    query_source = None
    uses_previous_frame = True

    def keep(self, patches, reference, has_reference, query, tokens=None):
        known = torch.where(has_reference[:, None, None], reference, 1.0)
        alike = torch.cosine_similarity(patches, known, dim=-1)
        counts = [2] * len(patches) if tokens is None else tokens
        return [
            row.argsort()[:count].sort().values for row, count in zip(alike, counts, strict=True)
        ]


def slow_least(whole, n, count):
    before = whole[n - 1] if n else torch.ones_like(whole[0])
    alike = [
        float(torch.dot(a, b) / (a.norm() * b.norm()))
        for a, b in zip(whole[n], before, strict=True)
    ]
    return sorted(sorted(range(len(alike)), key=alike.__getitem__)[:count])


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("family", ["llava_onevision", *QWEN])
def test_kept_tokens_have_their_own_places_and_deepstack_features(family, chunk):
    """Keyframe 2; the budget gives 1 two tokens, 3 none (4 is compared with it all the same)."""
    counts = [1, 2, 0, 0, 3, 0, 1, 2]
    model, inputs, whole, _, tail, deep, places = case(family, Least(), (2,), Fixed(*counts), chunk)
    kept = [list(range(whole.shape[1])) if n == 2 else slow_least(whole, n, counts[n])
            for n in range(SLICES)]  # fmt: skip
    ready = prepared(model, inputs)
    tokens, layers = features(model, ready)
    expected = [whole[n, kept[n]] for n in range(SLICES)] + [tail.reshape(-1, whole.shape[-1])]
    close(tokens, torch.cat(expected))
    for layer, stock in zip(layers, deep, strict=True):
        close(layer, torch.cat([stock[n, kept[n]] for n in range(SLICES)]))
    if places is None:
        return
    ids = inputs["input_ids"][0][inputs["attention_mask"][0].bool()]
    slots = (ids == model.config.video_token_id).nonzero().flatten().view(SLICES, -1)
    stock = torch.cat([places[:, slots[n, kept[n]]] for n in range(SLICES)], dim=1)
    short = ready["input_ids"][0] == model.config.video_token_id
    assert torch.equal(ready["position_ids"][-3:, 0, short], stock)


def test_each_part_of_a_frame_stands_in_its_middle():
    """Qwen's frames here have 2 x 3 tokens: two parts are 2 x 2 and 2 x 1, three 2 x 1 each."""
    budget = Fixed(2, 3, 0, 1, 1, -1, 0, 0)
    model, inputs, *_, places = case("qwen2_vl", vtc.merger("mean_pool"), (2,), budget)
    ready = prepared(model, inputs)
    slots = (inputs["input_ids"][0] == model.config.video_token_id).nonzero().flatten()
    slots = slots.view(SLICES, -1)
    cells = [[4, 5], [3, 4, 5], list(range(6)), [4], [4]]
    stock = torch.cat([places[:, slots[n, own]] for n, own in enumerate(cells)], dim=1)
    short = ready["input_ids"][0] == model.config.video_token_id
    assert torch.equal(ready["position_ids"][-3:, 0, short], stock)


def test_shared_tokens_share_their_deepstack_features():
    """One softmax over the patches of frames 3 to 5 weighs the features of every layer."""
    merger = vtc.merger("dfm", temperature=0.5, redundancy_weight=0.0)
    budget = Fixed(0, 2, 0, 1, -1, -1, 0, 0)
    model, inputs, whole, _, _, deep, _ = case("qwen3_vl", merger, (2,), budget)
    tokens, layers = features(model, prepared(model, inputs))
    ids = model.vtc.processor.tokenizer("What is red?", return_tensors="pt")["input_ids"][0]
    with torch.no_grad():
        query = model.get_input_embeddings()(ids).mean(0)
    count = whole.shape[1]

    def weights(patches):
        return (torch.cosine_similarity(patches, query, dim=-1) / 0.5).softmax(0)

    shared = weights(whole[3:6].flatten(0, 1))
    parts = torch.arange(count).view(2, 3)
    halves = [parts[:, :2].flatten(), parts[:, 2:].flatten()]
    for own, stock in zip([tokens, *layers], [whole, *deep], strict=True):
        two = [weights(whole[1, half]) @ stock[1, half] for half in halves]
        expected = torch.cat([torch.stack(two), stock[2], shared[None] @ stock[3:6].flatten(0, 1)])
        close(own, expected)


def test_tokens_from_the_cache_keep_their_places(tmp_path):
    model, processor = vtc.testing.tiny("qwen2_vl")
    selector = vtc.selector("uniform", keyframes=1)
    vtc.wrap(model, selector, vtc.merger("divprune", tokens=2), processor=processor)
    file = tmp_path / "squares.mp4"
    vtc.testing.write_video(file, vtc.testing.moving_squares(seconds=8, size=(84, 84)))
    rows = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        source = vtc.VideoSource(file, cache=cache)
        inputs = vtc.prepare_inputs(model, processor, source, "Where?")
        with torch.no_grad():
            ready = prepare(Call(model, model.vtc, inputs, generating=True))
        rows.append((ready.inputs["position_ids"], features(model, ready.inputs)[0]))
    assert ready.report.videos[0].cache[-1].hit
    assert len(torch.unique(rows[0][0][1:], dim=-1).T) > 20  # not all in one place
    for places, tokens in rows[1:]:
        assert torch.equal(places, rows[0][0]) and torch.equal(tokens, rows[0][1])


class Says(vtc.TokenPruner):
    query_source = None
    result: object = None

    def keep(self, patches, reference, has_reference, query, tokens=None):
        return self.result if not callable(self.result) else [self.result(patches)] * len(patches)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "to keep a list of 7 tensors, got NoneType"),
        (lambda patches: [0], r"to keep int64 indices \[T\], got \[0\]"),
        (lambda patches: torch.tensor([0.0]), "to keep int64 indices"),
        (lambda patches: torch.tensor([1, 0]), r"unique indices from 0 to 3, got \[1, 0\]"),
        (lambda patches: torch.tensor([1, 1]), "ascending, unique indices"),
        (lambda patches: torch.tensor([4]), "ascending, unique indices"),
        (lambda patches: torch.tensor([-1]), "ascending, unique indices"),
        (lambda patches: torch.tensor([0, 1]), "to keep 1 tokens of a frame, got 2"),
    ],
)
def test_a_pruner_that_keeps_nonsense_is_named(result, message):
    merger = Says()
    merger.result = result
    model, inputs, *_ = case("llava_onevision", merger, (2,), Fixed(*[1] * SLICES))
    with pytest.raises(ValueError, match=message) as error:
        prepared(model, inputs)
    assert "merger 'Says'" in str(error.value)


def places_of(family, merger, chunk=16, keyframes=(2,)):
    """The positions ``[3, F]`` of the visual tokens, and those of all placeholders by slice."""
    model, inputs, *_, places = case(family, merger, keyframes, chunk=chunk)
    ready = prepared(model, inputs)
    ids = inputs["input_ids"][0][inputs["attention_mask"][0].bool()]
    slots = (ids == model.config.video_token_id).nonzero().flatten().view(SLICES, -1)
    short = ready["input_ids"][0] == model.config.video_token_id
    return ready["position_ids"][-3:, 0, short], [places[:, row] for row in slots]


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize(
    ("name", "options", "cells"),
    [
        # A frame has 2 x 3 tokens; of two middles the later counts, as it does for a whole frame.
        ("downsample", {"tokens": 2, "rows": 2}, [4, 5]),  # columns 0 and 1, and 1 and 2
        ("downsample", {"tokens": 6, "rows": 2}, [0, 1, 2, 3, 4, 5]),
        ("spatial_pool", {"side": 2, "rows": 2}, [1, 2, 4, 5]),
        ("spatial_pool", {"side": 1, "rows": 2}, [4]),  # the middle of the frame, as ever
        ("mean_pool", {}, [4]),
    ],
)
def test_pooled_tokens_stand_in_the_middle_of_their_cells(family, name, options, cells):
    found, places = places_of(family, vtc.merger(name, **options))
    expected = [place if n == 2 else place[:, cells] for n, place in enumerate(places)]
    assert torch.equal(found, torch.cat(expected, dim=1))


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("name", ["tome", "hico"])
def test_merged_tokens_stand_in_the_middle_of_their_patches(name, chunk):
    merger = vtc.merger(name, tokens=2)
    model, inputs, whole, *_, places = case("qwen2_vl", merger, (2,), chunk=chunk)
    ready = prepared(model, inputs)
    rest = [n for n in range(SLICES) if n != 2]
    size = merger.frames_together
    cells = {}
    for start in range(0, len(rest), size):
        group = rest[start : start + size]
        weights = merger.position_weights(whole[group], whole[group], None, None)
        # Of the patches in a place of any frame: together they are all patches of the tokens.
        torch.testing.assert_close(weights.sum(-1), torch.ones(len(group), 2, dtype=weights.dtype))
        for n, rows in zip(group, weights, strict=True):
            cells[n] = [
                math.floor(sum(w * (m // 3) for m, w in enumerate(row)) + 0.5 + 1e-6) * 3
                + math.floor(sum(w * (m % 3) for m, w in enumerate(row)) + 0.5 + 1e-6)
                for row in rows.tolist()
            ]
    slots = (inputs["input_ids"][0] == model.config.video_token_id).nonzero().flatten()
    slots = slots.view(SLICES, -1)
    stock = [places[:, slots[n] if n == 2 else slots[n, cells[n]]] for n in range(SLICES)]
    short = ready["input_ids"][0] == model.config.video_token_id
    assert torch.equal(ready["position_ids"][-3:, 0, short], torch.cat(stock, dim=1))


@pytest.mark.parametrize("name", ["hico", "tome"])
def test_position_weights_are_those_of_the_tokens(name):
    """A patch that is the unit vector of its place shows its weight in each token."""
    merger = vtc.merger(name, tokens=3)
    noise = 1e-3 * torch.randn(6, 9, 9, generator=torch.Generator().manual_seed(0))
    patches = torch.eye(9) + noise
    weights = merger.position_weights(patches, patches, torch.ones(6).bool(), None)
    tokens = merger(patches, patches, torch.ones(6).bool(), None)
    torch.testing.assert_close(weights, tokens, atol=1e-2, rtol=0)


class Misplaced(type(vtc.merger("tome"))):
    """Weighs one token too few."""

    def position_weights(self, *frames):
        return super().position_weights(*frames)[:, 1:]


def test_position_weights_of_another_number_of_tokens_are_refused():
    merger = Misplaced(vtc.merger("tome", tokens=2).config)
    with pytest.raises(ValueError, match=r"'Misplaced'.* to return position weights \[\(2, 6\)"):
        places_of("qwen2_vl", merger)
