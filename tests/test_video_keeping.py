"""Frames of the first pass are kept for the second one, in the tower's size, and are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES

import vtc
from vtc.pipeline import keeping
from vtc.pipeline.call import Call
from vtc.pipeline.feed import SourceFeed
from vtc.pipeline.keeping import FrameKeeper, default_limit, free_memory
from vtc.pipeline.prepare import prepare

FRAMES = 13


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Frames of noise, larger than any tiny model takes them."""
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, 150, 200, 3), dtype=np.uint8)
    vtc.testing.write_video(path, noise, fps=1)
    return path


def wrapped(model, processor, merger="dfm"):
    selector = vtc.selector("dks", keyframes=3, similarity_threshold=1.0)
    encoder = vtc.testing.tiny_encoder()
    return vtc.wrap(model, selector, merger, processor=processor, encoder=encoder)


def read(model, processor, source):
    """The tokens of a video, and its report."""
    inputs = vtc.prepare_inputs(model, processor, source, "Where is it?")
    with torch.no_grad():
        prepared = prepare(Call(model, model.vtc, inputs, generating=True))
    [tokens] = prepared.inputs["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output
    return tokens, prepared.report.videos[0]


@pytest.mark.parametrize("suite", FAMILIES, ids=lambda suite: suite.family)
def test_tokens_of_kept_frames_are_equal_bit_by_bit(suite, file, decoded):
    model, processor = suite().build()
    wrapped(model, processor)
    tokens, report = read(model, processor, vtc.VideoSource(file, keep=0))
    assert (report.decoded, report.kept) == (len(decoded), 0)
    decoded.clear()
    kept, own = read(model, processor, vtc.VideoSource(file))
    assert torch.equal(kept, tokens)
    assert len(decoded) == own.decoded == own.kept == FRAMES
    source = vtc.VideoSource(file)
    size = FrameKeeper(model.vtc.adapter, processor, source, 10**9)._frames[0].nbytes
    assert size < source.height * source.width * 3
    decoded.clear()
    partly, own = read(model, processor, vtc.VideoSource(file, keep=7 * size))
    assert torch.equal(partly, tokens)
    assert own.kept in (6, 7) and FRAMES < len(decoded) == own.decoded


def test_frames_that_are_smaller_than_the_tower_takes_them_keep_their_size(
    model, processor, tmp_path
):
    path = tmp_path / "small.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=4, size=(24, 32)))
    wrapped(model, processor)
    source = vtc.VideoSource(path)
    keeper = FrameKeeper(model.vtc.adapter, processor, source, 10**9)
    assert keeper._frames.shape[1:] == (24, 32, 3)
    tokens, _ = read(model, processor, vtc.VideoSource(path, keep=0))
    kept, report = read(model, processor, source)
    assert torch.equal(kept, tokens) and report.kept == report.frames


def test_frames_keep_their_size_where_resized_ones_give_other_pixels(
    model, processor, file, monkeypatch
):
    adapter = type(wrapped(model, processor).vtc.adapter)
    preprocess = adapter.preprocess
    tokens, _ = read(model, processor, vtc.VideoSource(file, keep=0))

    def of_full_size_only(self, processor, frames, total):
        pixels = preprocess(self, processor, frames, total)
        error = 0 if frames.shape[1] > 100 else 1
        return {name: value + error for name, value in pixels.items()}

    monkeypatch.setattr(adapter, "preprocess", of_full_size_only)
    kept, report = read(model, processor, vtc.VideoSource(file))
    assert torch.equal(kept, tokens) and report.kept == FRAMES


def test_kept_frames_are_freed_with_their_video(model, processor, file, monkeypatch):
    wrapped(model, processor)
    alive = []
    release = SourceFeed.release

    def watched(self):
        alive.append(self._keeper.nbytes)
        release(self)
        assert self._keeper is None

    monkeypatch.setattr(SourceFeed, "release", watched)
    read(model, processor, vtc.VideoSource(file))
    assert len(alive) == 1 and alive[0] > 0


def test_frames_that_the_selector_does_not_read_are_not_kept(model, processor, file, decoded):
    vtc.wrap(model, vtc.selector("uniform", keyframes=3), "drop", processor=processor)
    _, report = read(model, processor, vtc.VideoSource(file))
    assert (len(decoded), report.decoded, report.kept) == (3, 3, 0)


def test_a_selector_with_an_encoder_of_its_own_decodes_again_for_patches(model, processor, file):
    wrapped(model, processor)
    with pytest.warns(UserWarning, match="untrained"):
        model.vtc.merge_encoder_patches()
    model.vtc._own_encoder = vtc.LazyEncoder(vtc.testing.tiny_encoder(seed=1))
    type(model.vtc.selector).encoder = property(lambda _: model.vtc._own_encoder.name)
    try:
        twice, _ = read(model, processor, vtc.VideoSource(file, keep=0))
        kept, report = read(model, processor, vtc.VideoSource(file))
    finally:
        del type(model.vtc.selector).encoder
    assert torch.equal(kept, twice)
    assert (report.decoded, report.kept) == (2 * FRAMES, FRAMES)


def test_lost_frames_have_the_same_stand_ins(clips, model, processor):
    wrapped(model, processor)
    broken = sorted((clips / "odd").glob("*corrupt*"))
    assert broken, "the folder of odd clips has a corrupt one"
    for path in broken:
        twice, report = read(model, processor, vtc.VideoSource(path, keep=0, max_frames=8))
        kept, _ = read(model, processor, vtc.VideoSource(path, max_frames=8))
        assert torch.equal(kept, twice)


def test_the_limit_is_a_tenth_of_the_free_memory(monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:   2000000 kB\n")
    monkeypatch.setattr(keeping, "_MEMINFO", meminfo)
    monkeypatch.setattr(keeping, "_CGROUP", tmp_path)
    assert default_limit() == 2_000_000 * 1024 // 10
    (tmp_path / "memory.max").write_text("500000000\n")  # of a container
    (tmp_path / "memory.current").write_text("100000000\n")
    assert free_memory() == 400_000_000
    (tmp_path / "memory.current").write_text("600000000\n")
    assert default_limit() == 0
    meminfo.write_text("MemAvailable: 900000000 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert default_limit() == 10**9


def test_a_machine_that_does_not_say_has_some_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(keeping, "_MEMINFO", tmp_path / "none")
    assert free_memory() > 0


@pytest.mark.parametrize("keep", [-1, 1.5, True])
def test_an_impossible_amount_is_refused(file, keep):
    with pytest.raises((ValueError, TypeError), match=f"expected keep to be .* got {keep}"):
        vtc.VideoSource(file, keep=keep)


def test_frames_in_memory_are_not_kept(model, processor):
    wrapped(model, processor)
    _, report = read(model, processor, np.zeros((4, 64, 64, 3), np.uint8))
    assert (report.decoded, report.kept) == (None, 0)
    with pytest.raises(ValueError, match="max_frames, keep and cache when"):
        vtc.VideoSource(vtc.VideoSource(np.zeros((4, 2, 2, 3), np.uint8)), keep=10)
