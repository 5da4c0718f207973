"""What is particular to Qwen2-VL and Qwen2.5-VL: odd frames, videos of different length, grids."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from reference import slow_dfm_token

import vtc
from vtc.pipeline.kv_cache import returned_cache
from vtc.testing.adapter_case import in_float64, relative_error

QUESTIONS = ["What is red?", "How many people walk by, and when do they leave the room?"]
FAMILIES = ["qwen2_vl", "qwen2_5_vl"]
FRAME = (56, 84)  # of the processors' own size, so that nothing is resized on any path


@pytest.fixture(scope="module", params=FAMILIES)
def stock(request):
    return vtc.testing.tiny(request.param)


@pytest.fixture
def model(stock):
    return copy.deepcopy(stock[0])


@pytest.fixture(scope="module")
def processor(stock):
    return stock[1]


@pytest.fixture
def make_inputs(processor):
    return functools.partial(vtc.testing.stock_inputs, processor)


@pytest.fixture
def wrapped(model, processor, encoder):
    return vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)


def row_by_hand(model, processor, inputs, row, question, keys):
    """Logits of one compressed row: full positions gathered, features merged slice by slice."""
    mask = inputs["attention_mask"][row].bool()
    ids = inputs["input_ids"][row][mask]
    grids = inputs["video_grid_thw"]
    full, _ = model.model.get_rope_index(
        ids[None],
        mm_token_type_ids=inputs["mm_token_type_ids"][row][mask][None],
        video_grid_thw=grids[row : row + 1],
        second_per_grid_ts=inputs.get("second_per_grid_ts"),
    )
    slices, height, width = (int(n) for n in grids[row])
    begin = int(grids[:row].prod(-1).sum())
    pixels = inputs["pixel_values_videos"][begin : begin + slices * height * width]
    features = model.model.get_video_features(
        pixels, video_grid_thw=grids[row : row + 1], return_dict=True
    ).pooler_output[0]
    features = features.view(slices, -1, features.shape[-1])
    cells = height * width // 4
    centre = height // 2 // 2 * (width // 2) + width // 2 // 2
    asked = processor.tokenizer(question, add_special_tokens=False)["input_ids"]
    query = model.get_input_embeddings()(torch.tensor(asked)).mean(0).double()
    places = (ids == model.config.video_token_id).nonzero().flatten()
    pieces, positions, reference = [], [], None
    for n in range(slices):
        at = places[n * cells : (n + 1) * cells]
        if n in keys:
            pieces.append(features[n])
            positions.append(full[:, 0, at])
            reference = features[n].double()
            continue
        patches = features[n].double()
        pieces.append(slow_dfm_token(patches, reference, query).to(features))
        positions.append(full[:, 0, at[centre : centre + 1]])
    table = model.get_input_embeddings()
    first, last = int(places[0]), int(places[-1])
    embeds = torch.cat([table(ids[:first]), *pieces, table(ids[last + 1 :])])[None]
    where = torch.cat([full[:, 0, :first], *positions, full[:, 0, last + 1 :]], dim=1)
    hidden = model.model.language_model(inputs_embeds=embeds, position_ids=where[:, None])
    return model.lm_head(hidden.last_hidden_state)[0], where


def test_merged_videos_equal_a_reference_made_by_hand(wrapped, processor, make_inputs, make_video):
    videos = [make_video(17, 1, FRAME), make_video(8, 2, FRAME)]  # of different length
    inputs = in_float64(make_inputs(videos, QUESTIONS))
    wrapped.double()
    with torch.no_grad():
        output = wrapped(**inputs, use_cache=True)
        logits, offsets = output.logits, returned_cache(output).vtc_offsets
        reports = vtc.last_report(wrapped).videos
        assert [report.frames for report in reports] == [18, 8]
        for row, (question, report) in enumerate(zip(QUESTIONS, reports, strict=True)):
            keys = [frame.index // 2 for frame in report.keyframes]
            assert 1 <= len(keys) <= 3
            with vtc.disabled(wrapped):
                expected, where = row_by_hand(wrapped, processor, inputs, row, question, keys)
            error = relative_error(logits[row, -len(expected) :], expected)
            assert error < 1e-6  # transformers keeps RoPE and softmax in float32
            # For manual loops: the next token stands after the last one.
            assert int(offsets[row]) == int(where[:, -1].max()) + 1 - where.shape[1]


def test_a_lazy_video_equals_the_processors(wrapped, processor, make_inputs, make_video):
    """13 frames are seven slices; the last one repeats its frame, as the processor does."""
    wrapped.double().vtc.selector = vtc.selector("uniform", keyframes=3)
    video = make_video(13, 1, FRAME)
    lazy = vtc.prepare_inputs(wrapped, processor, video, "What?", fps=2.0)
    assert (lazy["input_ids"] == wrapped.config.video_token_id).sum() == 1
    stock = in_float64(make_inputs([video], ["What?"]))
    if "second_per_grid_ts" in stock:
        stock["second_per_grid_ts"] = torch.tensor([1.0])  # two frames at 2 frames/s
    with torch.no_grad():
        expected = wrapped(**stock).logits
        for wrapped.vtc.chunk_slices in (1, 3, 16):
            logits = wrapped(**lazy).logits
            assert relative_error(logits, expected) < 1e-6
        report = vtc.last_report(wrapped)
        assert report.frames == 13
        assert [frame.timestamp for frame in report.keyframes] == [
            frame.index / 2 for frame in report.keyframes
        ]
        written = wrapped.generate(**lazy, max_new_tokens=5, do_sample=False)
        expected = wrapped.generate(**stock, max_new_tokens=5, do_sample=False)
        assert written[0, -5:].tolist() == expected[0, -5:].tolist()


def test_placeholders_that_do_not_fit_are_named(wrapped, make_inputs, make_video):
    inputs = make_inputs([make_video(8, 1, FRAME)], ["What?"])
    inputs["video_grid_thw"] = inputs["video_grid_thw"] + torch.tensor([[1, 0, 0]])
    with pytest.raises(ValueError, match="placeholders left for a video of 5 x 6"):
        wrapped(**inputs)


def test_a_new_video_in_forward_on_a_cache_equals_the_whole_talk(
    model, processor, make_inputs, make_video
):
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "mean_pool", processor=processor)
    model.double()
    first = in_float64(make_inputs([make_video(6, 1, FRAME)], ["What?"]))
    later = in_float64(make_inputs([make_video(4, 2, FRAME)], ["And?"]))
    along = ("input_ids", "attention_mask", "mm_token_type_ids")
    whole = {name: torch.cat([first[name], later[name]], dim=1) for name in along}
    for name in ("pixel_values_videos", "video_grid_thw"):
        whole[name] = torch.cat([first[name], later[name]])
    for inputs in (first, later):
        inputs.pop("second_per_grid_ts", None)  # one second a slice, as without it
    with torch.no_grad():
        at_once = model(**whole, use_cache=True)
        cache = returned_cache(model(**first, use_cache=True))
        step = model(**later, **vtc.testing.cache_argument(cache), use_cache=True)
        assert torch.equal(cache.vtc_offsets, returned_cache(at_once).vtc_offsets)
        expected = at_once.logits[:, -step.logits.shape[1] :]
        assert relative_error(step.logits, expected) < 1e-6


RELEASED = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
"""The sizes of the released checkpoints' processors."""


def lazy_report(wrapped, processor, monkeypatch, frames=4, cap=None):
    """The report of a lazy video of 1000 x 800 with the released checkpoints' sizes."""
    wrapped.vtc.selector = vtc.selector("uniform", keyframes=1)
    monkeypatch.setattr(processor.video_processor, "size", RELEASED)
    monkeypatch.setattr(processor.video_processor, "cap_pixels_per_frame", cap, raising=False)
    video = np.zeros((frames, 800, 1000, 3), np.uint8)
    with torch.no_grad():
        wrapped(**vtc.prepare_inputs(wrapped, processor, video, "What?"))
    return vtc.last_report(wrapped)


def test_a_lazy_slice_takes_at_most_768_tokens_and_the_report_says_so(
    wrapped, processor, monkeypatch
):
    report = lazy_report(wrapped, processor, monkeypatch)
    tokens = report.tokens_after - 1  # of the keyframe; the other slice is one merged token
    assert 700 < tokens <= 768
    (note,) = report.warnings
    assert f"1000 x 800 are resized to {tokens} tokens a slice" in note
    assert "in place of 1,044" in note and "cap_pixels_per_frame = False" in note


@pytest.mark.parametrize("cap", [False, True])
def test_a_lazy_slice_takes_what_the_users_cap_allows(wrapped, processor, monkeypatch, cap):
    report = lazy_report(wrapped, processor, monkeypatch, cap=cap)
    assert report.tokens_after == 36 * 29 + 1 and not report.warnings


def test_the_users_cap_on_all_frames_counts_frames_that_are_not_kept(
    wrapped, processor, monkeypatch
):
    monkeypatch.setattr(processor.video_processor, "max_video_tokens", 1000, raising=False)
    report = lazy_report(wrapped, processor, monkeypatch, frames=8, cap=True)
    stock = processor.video_processor(
        [torch.zeros(8, 3, 800, 1000, dtype=torch.uint8)], return_tensors="pt"
    )
    slice_tokens = int(stock["video_grid_thw"][0, 1:].prod()) // 4
    assert report.tokens_before == 4 * slice_tokens <= 900
