"""Frames that stay in memory are not decoded again, and are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vtc
from vtc.video.pyav_reader import PyAVReader


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=12))
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The positions that each pass asked the file for."""
    asked = []
    read = PyAVReader.read

    def watched(self, positions):
        asked.append(positions.tolist())
        return read(self, positions)

    monkeypatch.setattr(PyAVReader, "read", watched)
    return asked


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_second_pass_decodes_what_was_not_kept(file, decoded, share):
    plain = vtc.VideoSource(file)
    frames, again = plain.frames(), plain.frames([1, 5, 11])
    decoded.clear()
    keep = round(share * frames.nbytes)
    source = vtc.VideoSource(file, keep=keep)
    assert np.array_equal(source.frames(), frames)
    assert np.array_equal(source.frames([1, 5, 11]), again)
    count = keep // frames[0].nbytes
    everything = decoded[0]
    assert len(everything) == 12
    assert decoded[1] == [everything[k] for k in (1, 5, 11) if k >= count]


def test_kept_frames_in_between_come_in_their_order(file, decoded):
    frames = vtc.VideoSource(file).frames()
    source = vtc.VideoSource(file, keep=10**9)
    source.frames([2, 6])
    decoded.clear()
    assert np.array_equal(source.frames(), frames)
    assert len(decoded[0]) == 10


def test_passes_at_the_same_time_keep_a_frame_once(file, decoded):
    frames = vtc.VideoSource(file).frames()
    source = vtc.VideoSource(file, keep=10 * frames[0].nbytes)
    slow = source.chunks(range(8), size=2, prefetch=0)
    pictures = [next(slow).frames]
    assert np.array_equal(source.frames(range(8)), frames[:8])
    pictures += [chunk.frames for chunk in slow]
    assert np.array_equal(np.concatenate(pictures), frames[:8])
    source.frames([8, 9])  # there is room for two more
    decoded.clear()
    source.frames()
    assert len(decoded[0]) == 2


def test_lost_frames_have_the_same_stand_ins(clips):
    broken = sorted((clips / "odd").glob("*corrupt*"))
    assert broken, "the folder of odd clips has a corrupt one"
    for path in broken:
        plain, keeping = vtc.VideoSource(path), vtc.VideoSource(path, keep=10**9)
        for _ in range(2):
            assert np.array_equal(plain.frames(), keeping.frames())
        assert plain.warnings == keeping.warnings


def test_a_model_decodes_each_frame_once(model, processor, encoder, file, decoded):
    vtc.wrap(model, vtc.selector("dks", keyframes=2), processor=processor, encoder=encoder)
    texts = {}
    for keep in (0, 10**9):
        decoded.clear()
        source = vtc.VideoSource(file, keep=keep)
        inputs = vtc.prepare_inputs(model, processor, source, "Where is it?")
        with torch.no_grad():
            texts[keep] = model(**inputs).logits, sum(map(len, decoded))
    assert torch.equal(texts[0][0], texts[10**9][0])
    assert (texts[0][1], texts[10**9][1]) == (24, 12)


@pytest.mark.parametrize("keep", [-1, 1.5, True])
def test_an_impossible_amount_is_refused(file, keep):
    with pytest.raises((ValueError, TypeError), match=f"expected keep to be .* got {keep}"):
        vtc.VideoSource(file, keep=keep)


def test_frames_in_memory_need_no_room():
    source = vtc.VideoSource(np.zeros((4, 2, 2, 3), np.uint8), keep=10)
    assert len(source.frames()) == 4
    with pytest.raises(ValueError, match="max_frames, keep and cache to it"):
        vtc.VideoSource(source, keep=10)
