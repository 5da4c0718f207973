"""Mergers of segments in the models: own places, deepstack, chunks, keyframes, exact budgets."""

from __future__ import annotations

import copy

import pytest
import torch
from family_models import CONTRACTS, built
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare
from vtc.pipeline.saliency import encode_with_saliency

NAMES = ["fastvid", "flashvid", "holitom"]
SLICES = 9
QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"]


def video_of(contract, slices, each):
    """Real video stands still for a while, then changes."""
    video = contract.video(slices * each, 1)
    video[2 * each : 5 * each] = video[2 * each]
    return video


def case(family, merger, selector="none", budget=None):
    contract = CONTRACTS[family]
    model, processor = copy.deepcopy(built(family)[0]), built(family)[1]
    video = video_of(contract, SLICES, 2 if family in QWEN else 1)
    inputs = contract.inputs(processor, [video], ["What is red?"])
    inputs = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with torch.no_grad():
        whole, _, tail = contract.reference(model.double(), inputs, 0)[:3]
        deep = contract.deepstack(model, inputs, 0)
        places = contract.positions(model, inputs, 0)
    vtc.wrap(model, selector, merger, processor=processor, budget=budget)
    with torch.no_grad():
        pixels = model.vtc.adapter.pixels(inputs, 0, range(SLICES))
        saliency = encode_with_saliency(model.vtc.adapter, model, pixels).saliency
    return model, inputs, whole, tail, deep, places, saliency


def prepared(model, inputs):
    with torch.no_grad():
        call = Call(model, model.vtc, inputs)
        return prepare(call).inputs, call.report


def combinations():
    for family in ["llava_onevision", "internvl", *QWEN]:
        for chunk in (1, 4, 16):
            for keyframes in (0, 2):
                often = family in ("llava_onevision", "qwen3_vl") and chunk == 4
                if keyframes and not often:
                    continue
                marks = () if often else pytest.mark.slow
                yield pytest.param(family, chunk, keyframes, marks=marks)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("family", "chunk", "keyframes"), list(combinations()))
def test_the_model_reads_the_segments_that_the_merger_condensed(name, family, chunk, keyframes):
    selector = vtc.selector("uniform", keyframes=keyframes) if keyframes else "none"
    merger = vtc.merger(name, share=0.5, longest=4)
    model, inputs, whole, tail, deep, places, saliency = case(family, merger, selector)
    model.vtc.chunk_slices = chunk
    ready, report = prepared(model, inputs)
    kept = [item.index // report.videos[0].frames_per_slice for item in report.videos[0].keyframes]

    patches = vtc.interfaces.token_budget.VideoPatches(lambda: iter([whole]))
    survey = merger.survey(patches)
    segments = merger.segments(survey)
    rows: dict[int, tuple[list[int], Tensor]] = {}
    layers = torch.cat([whole, *deep], dim=-1)
    for number in segments.unique().tolist():
        frames = [n for n in range(SLICES) if segments[n] == number and n not in kept]
        if not frames:
            continue
        found = merger.condense(whole[frames], saliency[frames], None, None, survey)
        for frame, (indices, weights) in zip(frames, found, strict=True):
            rows[frame] = indices.tolist(), weights @ layers[frames].flatten(0, 1)
    for frame in kept:
        rows[frame] = list(range(whole.shape[1])), layers[frame]
    (features,) = ready["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output[:1]
    features = features if features.ndim == 2 else features.flatten(0, -2)
    expected = torch.cat([rows[n][1] for n in range(SLICES)])
    if family == "internvl":
        features = torch.cat(list(ready["mm_encoder_outputs"]["image"].pooler_output)).flatten(
            0, -2
        )
    count = len(expected)
    torch.testing.assert_close(features[:count], expected, atol=1e-6, rtol=1e-6)
    assert report.videos[0].tokens_after == count + len(tail.reshape(-1, whole.shape[-1]))
    assert count < whole.shape[0] * whole.shape[1]
    if places is None:
        return
    ids = inputs["input_ids"][0][inputs["attention_mask"][0].bool()]
    slots = (ids == model.config.video_token_id).nonzero().flatten().view(SLICES, -1)
    stock = torch.cat([places[:, slots[n, rows[n][0]]] for n in range(SLICES)], dim=1)
    short = ready["input_ids"][0] == model.config.video_token_id
    assert torch.equal(ready["position_ids"][-3:, 0, short], stock)


@pytest.fixture(scope="module", params=["llava_onevision", "qwen3_vl"])
def wrapped(request):
    family = request.param
    model, processor = copy.deepcopy(built(family)[0]), built(family)[1]
    vtc.wrap(model, "none", "fastvid", processor=processor)
    return model, processor


@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_a_budget_is_exact_with_every_merger_of_segments(wrapped, data):
    model, processor = wrapped
    model.vtc.merger = vtc.merger(data.draw(st.sampled_from(NAMES)))
    model.vtc.chunk_slices = data.draw(st.sampled_from([1, 3, 16]))
    frames = data.draw(st.integers(1, 12))
    total = data.draw(st.integers(2, 60))
    budget = data.draw(st.sampled_from(["even", "evs", "fastvid", "holitom"]))
    model.vtc.budget = vtc.budget(budget, max_tokens=total)
    video = vtc.testing.moving_squares(seconds=frames)
    model.vtc.selector = vtc.selector(data.draw(st.sampled_from(["none", "random"])))
    inputs = vtc.prepare_inputs(model, processor, video, "What is red?")
    ready, report = prepared(model, inputs)
    video_report = report.videos[0]
    assert video_report.tokens_after == min(total, video_report.tokens_before)
