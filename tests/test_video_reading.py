"""Exactness of the frames that are read, and the bounds of reading ahead."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtc.video import VideoError, VideoSource
from vtc.video.run_ahead import run_ahead
from vtc.video.sampling import sample

CLIPS = Path(__file__).parents[1].parent / "shared" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no test clips in {CLIPS}")
BARCODED = sorted(p for p in (CLIPS / "barcoded").glob("*") if p.suffix != ".json")
DECORD_REFUSES = {
    "c_av1.mkv": "decord cannot open it",
    "c_hevc_og.mp4": "open-GOP files",
    "c_mpeg4.avi": "AVI and MPEG-4",
    "cfr_opengop.mp4": "open-GOP files",
    "cfr_startoff.ts": "MPEG-TS",
    "editcut_bar.mp4": "trimmed files",
}


def barcode(frame: np.ndarray) -> int:
    """The frame number painted along the top: 16 blocks, least significant bit first."""
    block = frame.shape[1] / 16
    middles = [(int((i + 0.25) * block), int((i + 0.75) * block)) for i in range(16)]
    return sum(int(frame[5:35, a:b].mean() > 128) << i for i, (a, b) in enumerate(middles))


def truth(clip: Path) -> tuple[list[float], list[int], float]:
    """Timestamps, frame numbers and duration by the ground truth file."""
    pairs = json.loads(clip.with_name(clip.name + ".gt.json").read_text())
    times = [t for t, _ in pairs]
    steps = sorted(b - a for a, b in zip(times, times[1:], strict=False))
    return times, [n for _, n in pairs], times[-1] + steps[len(steps) // 2]


def expected(clip: Path, instants: list[float]) -> tuple[list[float], list[int]]:
    """The last frame at or before each instant, each once; a loop over all, to be obvious."""
    times, numbers, _ = truth(clip)
    chosen: list[int] = []
    for instant in instants:
        last = max(i for i, t in enumerate(times) if t <= instant + 1e-6)
        if last not in chosen:
            chosen.append(last)
    return [times[i] for i in chosen], [numbers[i] for i in chosen]


def assert_frames(source: VideoSource, times: list[float], numbers: list[int]) -> None:
    read = list(source.chunks(size=7))
    assert [barcode(frame) for chunk in read for frame in chunk.frames] == numbers
    assert np.concatenate([chunk.ok for chunk in read]).all()
    np.testing.assert_allclose(source.timestamps, times, atol=6e-4)  # Matroska rounds to 1 ms
    np.testing.assert_array_equal(np.concatenate([c.timestamps for c in read]), source.timestamps)
    np.testing.assert_array_equal(np.concatenate([c.indices for c in read]), np.arange(len(source)))


@needs_clips
@pytest.mark.parametrize("clip", BARCODED, ids=lambda p: p.name)
def test_one_frame_a_second_is_exact(clip: Path) -> None:
    _, _, duration = truth(clip)
    instants = [float(k) for k in range(1000) if k < duration - 1e-6]
    assert_frames(VideoSource(clip), *expected(clip, instants))


@needs_clips
@pytest.mark.parametrize("clip", BARCODED, ids=lambda p: p.name)
def test_evenly_spaced_frames_are_exact(clip: Path) -> None:
    _, _, duration = truth(clip)
    instants = [(k + 0.5) * duration / 64 for k in range(64)]
    assert_frames(VideoSource(clip, frames=64), *expected(clip, instants))


@needs_clips
@pytest.mark.parametrize("name", ["c_hevc_og.mp4", "c_mpeg4.avi", "editcut_bar.mp4"])
def test_every_frame_is_exact(name: str) -> None:
    clip = CLIPS / "barcoded" / name
    times, numbers, _ = truth(clip)
    assert_frames(VideoSource(clip, fps=None), times, numbers)


@needs_clips
@pytest.mark.parametrize("clip", BARCODED, ids=lambda p: p.name)
def test_decord_is_exact_or_refuses(clip: Path) -> None:
    pytest.importorskip("decord")
    if clip.name in DECORD_REFUSES:
        with pytest.raises(VideoError, match=DECORD_REFUSES[clip.name] + '.*use reader="pyav"$'):
            VideoSource(clip, reader="decord")
        return
    _, _, duration = truth(clip)
    instants = [(k + 0.5) * duration / 64 for k in range(64)]
    assert_frames(VideoSource(clip, frames=64, reader="decord"), *expected(clip, instants))


@needs_clips
@pytest.mark.parametrize("name", ["cfr_opengop.mp4", "c_mpeg4.avi", "c_av1.mkv"])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_subset_gives_the_frames_of_the_whole(name: str, data: st.DataObject) -> None:
    clip = CLIPS / "barcoded" / name
    source = VideoSource(clip, fps=10)
    times, numbers = expected(clip, [k / 10 for k in range(len(source))])
    assert len(times) == len(source)
    chosen = sorted(data.draw(st.sets(st.integers(0, len(source) - 1), min_size=1, max_size=6)))
    assert [barcode(f) for f in source.frames(chosen)] == [numbers[i] for i in chosen]
    (chunk,) = source.chunks(chosen, prefetch=0)
    assert [barcode(f) for f in chunk.frames] == [numbers[i] for i in chosen]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_out_of_order_in_a_file_without_timestamps(tmp_path: Path, codec: str) -> None:
    """AVI says when frames are decoded, not when they are shown; B-frames make these differ."""
    path = tmp_path / "b-frames.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "3", "g": "20"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        rng = np.random.default_rng(0)
        for number in range(60):
            picture = rng.integers(0, 60, (64, 128, 3), dtype=np.uint8)
            bits = [number >> i & 1 for i in range(16)]
            picture[:40] = np.repeat(np.uint8(255) * np.array(bits, np.uint8), 8)[None, :, None]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    source = VideoSource(path, fps=None)
    assert [barcode(frame) for frame in source.frames()] == list(range(60))
    np.testing.assert_allclose(source.timestamps, np.arange(60) / 25)
    assert [barcode(frame) for frame in source.frames([7, 22, 41])] == [7, 22, 41]


times_and_duration = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(
    lambda steps: (np.cumsum([0, *steps[:-1]]) / 40, sum(steps) / 40)
)


@given(times_and_duration, st.sampled_from([0.5, 1.0, 3.0, 29.97, 1000.0]))
def test_sampling_at_a_rate_takes_the_last_frame_before(video, fps) -> None:
    times, duration = video
    instants = [k / fps for k in range(int(duration * fps) + 2) if k / fps < duration - 1e-6]
    chosen = {max(i for i, t in enumerate(times) if t <= s + 1e-6) for s in instants}
    assert sample(times, duration, fps=fps).tolist() == sorted(chosen)


@given(times_and_duration, st.integers(1, 200))
def test_sampling_a_number_takes_midpoints(video, n) -> None:
    times, duration = video
    instants = [(k + 0.5) * duration / n for k in range(n)]
    chosen = {max(i for i, t in enumerate(times) if t <= s + 1e-6) for s in instants}
    expected = sorted(chosen) if n < len(times) else list(range(len(times)))
    assert sample(times, duration, frames=n).tolist() == expected
    assert sample(times, duration, fps=None, max_frames=n).tolist() == expected


def test_rounding_does_not_choose_the_frame_before() -> None:
    times = np.cumsum([0.0] + [0.1] * 9)  # the fourth is 0.30000000000000004
    assert sample(times, 1.0, fps=10).tolist() == list(range(10))


def test_a_huge_rate_costs_nothing() -> None:
    assert sample(np.arange(100) / 25, 4.0, fps=1e12).tolist() == list(range(100))


@needs_clips
def test_chunks_stay_small_and_few() -> None:
    """A slow consumer of 1280x720 frames: memory stays at (prefetch + 2) chunks."""
    source = VideoSource(CLIPS / "real" / "sam2_02_cups.mp4", fps=None)
    chunk_bytes = 8 * 1280 * 720 * 3
    tracemalloc.start()
    try:
        chunks = source.chunks(size=8, prefetch=1)
        next(chunks)
        time.sleep(1.5)  # enough to decode the whole clip, were the thread let run
        next(chunks)
        time.sleep(0.5)
        peak = tracemalloc.get_traced_memory()[1]
        chunks.close()
    finally:
        tracemalloc.stop()
    assert 1.5 * chunk_bytes < peak < 3.5 * chunk_bytes


@needs_clips
def test_a_chunk_is_at_most_64_megabytes() -> None:
    source = VideoSource(CLIPS / "real" / "sam2_02_cups.mp4", fps=10)
    sizes = [len(chunk.frames) for chunk in source.chunks(size=1000)]
    assert sum(sizes) == len(source) == 101
    assert max(sizes) == 64 * 2**20 // (1280 * 720 * 3)


def vtc_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vtc-prefetch"]


@needs_clips
def test_closing_the_generator_ends_the_thread() -> None:
    source = VideoSource(CLIPS / "real" / "intel_one-by-one-person.mp4", fps=5)
    chunks = source.chunks(size=4)
    next(chunks)
    assert len(vtc_threads()) == 1
    chunks.close()
    assert not vtc_threads()


def test_running_ahead_is_bounded_and_ordered() -> None:
    made: list[int] = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    ahead = run_ahead(items(), depth=3)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(made) == 1 + 3 + 1  # with the consumer, waiting, being made
    assert list(ahead) == list(range(1, 50))
    assert not vtc_threads()


def test_running_ahead_begins_before_it_is_read() -> None:
    begun = threading.Event()

    def items():
        begun.set()
        yield from range(50)

    ahead = run_ahead(items(), depth=1)
    assert begun.wait(10)
    ahead.close()  # unread
    assert not vtc_threads()


def test_an_error_in_the_thread_reaches_the_consumer_in_its_place() -> None:
    def items():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    ahead = run_ahead(items(), depth=2)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    assert not vtc_threads()


def test_the_generator_is_closed_in_its_own_thread() -> None:
    closed_in: list[str] = []

    def items():
        try:
            while True:
                yield 0
        finally:
            closed_in.append(threading.current_thread().name)

    ahead = run_ahead(items(), depth=1)
    next(ahead)
    ahead.close()
    assert closed_in == ["vtc-prefetch"]
