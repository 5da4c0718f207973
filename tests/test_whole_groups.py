"""Mergers that merge frames together get whole groups, and every merger works in a model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vtc
import vtc.video.source
from vtc.pipeline.merge import whole_groups
from vtc.testing.adapter_case import in_float64, relative_error

TOLERANCE = 1e-6
"""Of the largest logit, in float64; RMSNorm stays in float32."""


@given(st.lists(st.integers(1, 7), max_size=8), st.integers(1, 5))
def test_groups_are_whole_and_nothing_is_lost(sizes, together):
    slices = torch.arange(sum(sizes)) + 3
    patches = slices[:, None, None] * torch.ones(1, 2, 3)
    chunks = zip(slices.split(sizes), patches.split(sizes), strict=True) if sizes else []
    groups = list(whole_groups(chunks, together))
    assert all(len(numbers) % together == 0 for numbers, _ in groups[:-1])
    assert all(len(numbers) == len(part) > 0 for numbers, part in groups)
    if groups:
        numbers, parts = zip(*groups, strict=True)
        assert torch.equal(torch.cat(numbers), slices)
        assert torch.equal(torch.cat(parts), patches)
    most = max(sizes, default=0) + together - 1
    assert all(len(numbers) <= most for numbers, _ in groups)


def test_frames_that_wait_do_not_keep_their_chunk_alive():
    chunk = torch.zeros(7, 2, 3)
    _, (_, waiting) = whole_groups([(torch.arange(7), chunk)], 5)
    assert len(waiting) == 2
    assert waiting.untyped_storage().data_ptr() != chunk.untyped_storage().data_ptr()


def wrap_memory(model, processor, encoder):
    merger = vtc.merger("memory", window=4, frames=2, tokens=3)
    selector = vtc.selector("uniform", keyframes=3)
    return vtc.wrap(model, selector, merger, processor=processor, encoder=encoder)


def test_chunks_never_part_a_group(model, processor, encoder, make_video, make_inputs):
    wrap_memory(model.double(), processor, encoder)
    inputs = in_float64(make_inputs([make_video(14)], ["Where?"]))
    logits = []
    with torch.no_grad():
        for model.vtc.chunk_slices in (1, 3, 16):
            logits.append(model(**inputs).logits)
    # 3 keyframes of 4 tokens, 2 frames of 3 for each of 4 + 4 + 3 others, the newline
    assert vtc.last_report(model).tokens_after == 3 * 4 + 3 * 2 * 3 + 1
    for other in logits[1:]:
        assert relative_error(other, logits[0]) < TOLERANCE


def test_a_file_whose_chunks_are_small_has_whole_groups(
    model, processor, encoder, make_video, tmp_path, monkeypatch
):
    wrap_memory(model.double(), processor, encoder)
    path = str(tmp_path / "video.mp4")
    vtc.testing.write_video(path, make_video(14), fps=1)
    inputs = vtc.prepare_inputs(model, processor, path, "Where?", fps=1.0)
    with torch.no_grad():
        expected = model(**inputs).logits
        monkeypatch.setattr(vtc.video.source, "_CHUNK_BYTES", 1)  # as for very large frames
        logits = model(**inputs).logits
    assert relative_error(logits, expected) < TOLERANCE


@pytest.mark.parametrize(
    ("merger", "tokens"),
    [
        ("llama_vid", 4 * 2),
        ("perceiver", 4 * 4),
        ("spatial_pool", 4 * 4),
        ("tome", 4 * 9),
        ("divprune", 4 * 4),
        ("cdpruner", 4 * 4),
        ("dycoke", 4 + 3 * 1),
        ("downsample", 4 * 9),
        ("random", 4 * 4),
    ],
)
@pytest.mark.filterwarnings("ignore:merger '(llama_vid|perceiver)'")
def test_every_merger_works_in_a_model(
    model, processor, encoder, make_video, make_inputs, merger, tokens
):
    selector = vtc.selector("uniform", keyframes=2)
    vtc.wrap(model, selector, merger, processor=processor, encoder=encoder)
    with torch.no_grad():
        logits = model(**make_inputs([make_video(6)], ["Where?"])).logits
    assert logits.isfinite().all()
    assert vtc.last_report(model).tokens_after == 2 * 4 + tokens + 1


@pytest.mark.parametrize(("merger", "tokens"), [("mean_pool", 6), ("dycoke", 0)])
def test_without_keyframes_all_slices_are_merged_in_every_family(case, merger, tokens):
    model, inputs = case
    model.vtc.selector, model.vtc.merger = vtc.selector("none"), vtc.merger(merger)
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()
    report = vtc.last_report(model)
    assert not report.keyframes and report.tokens_after > 0
    # LLaVA-OneVision has a newline token at the end.
    assert not tokens or report.tokens_after in (tokens, tokens + 1)


def test_a_still_video_leaves_its_keyframes_only(
    model, processor, encoder, make_video, make_inputs
):
    selector = vtc.selector("uniform", keyframes=1)
    vtc.wrap(model, selector, "similarity_prune", processor=processor, encoder=encoder)
    still = make_video(1).repeat(6, axis=0)
    with torch.no_grad():
        assert model(**make_inputs([still], ["Where?"])).logits.isfinite().all()
    # The keyframe is in the middle; the three frames before it keep all their tokens.
    assert vtc.last_report(model).tokens_after == 4 + 3 * 4 + 1
