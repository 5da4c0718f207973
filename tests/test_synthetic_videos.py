"""Synthetic videos as sources of frames, and sources of other frames drawn by number."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest

from vtc.video import VideoSource
from vtc_recipes.synthetic import Scene, Segment, SyntheticVideo, random_video


def test_videos_give_any_frames_in_any_order():
    video = random_video(8, 40, segments=6)
    whole = np.concatenate([s.scene.frames(s.length, s.start) for s in video.segments])
    np.testing.assert_array_equal(video.frames([39, 0, 13, 13]), whole[[39, 0, 13, 13]])
    np.testing.assert_array_equal(np.stack([*video.read(np.arange(40))]), whole)
    source = video.source(fps=2.0)
    assert isinstance(source, VideoSource) and source.duration == 20
    np.testing.assert_array_equal(source.timestamps[:3], [0, 0.5, 1])
    np.testing.assert_array_equal(source.frames([3, 30]), whole[[3, 30]])


def test_files_hold_the_same_frames(tmp_path):
    video = random_video(1, 30, size=(64, 96), segments=30)
    video.write(tmp_path / "video.mp4", fps=5)
    source = VideoSource(tmp_path / "video.mp4", fps=None)
    assert (len(source), source.height, source.width, source.duration) == (30, 64, 96, 6.0)
    read, drawn = source.frames().astype(float), video.frames(range(30)).astype(float)
    distance = np.abs(read[:, None] - drawn[None]).mean((2, 3, 4))
    assert distance.argmin(1).tolist() == [*range(30)]  # each scene lasts one frame
    assert distance.diagonal().max() < 12


def test_ten_thousand_frames_need_no_more_memory_than_a_thousand():
    def peak(frames: int) -> int:
        video = random_video(0, frames, segments=20)
        tracemalloc.start()
        seen = sum(len(chunk.indices) for chunk in video.source().chunks(prefetch=0))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen == frames
        return peak

    peak(64)  # what is loaded once
    short, long = peak(1000), peak(10_000)
    assert long < short + 2**20  # the frames themselves are 66 MB


def test_ranges_and_sparks_of_segments():
    scene = next(
        scene for scene in map(Scene, range(100)) if scene.spark and scene.spark.start >= 2
    )
    spark = scene.spark
    assert Segment(scene, spark.start - 2, 5).spark == (2, min(5, 2 + spark.length))
    assert Segment(scene, spark.start + 1, 40).spark == (0, spark.length - 1)
    assert Segment(scene, spark.start + spark.length, 40).spark is None
    assert Segment(scene, 0, spark.start).spark is None
    assert SyntheticVideo([Segment(scene, 0, 4), Segment(scene, 1, 3)]).ranges() == [(0, 4), (4, 7)]


class Countdown:
    """Frames whose pixels all hold their number, counted down."""

    height, width = 4, 6

    def __init__(self, count: int, shape: tuple[int, ...] = (4, 6, 3), dtype: str = "uint8"):
        self.count, self.shape, self.dtype = count, shape, dtype

    def __len__(self) -> int:
        return self.count

    def read(self, indices):
        for index in indices:
            yield np.full(self.shape, self.count - index, self.dtype)


def test_a_source_takes_what_gives_frames_by_number():
    source = VideoSource(Countdown(200), fps=4)
    assert source.name == "Countdown of 200 frames" and source.duration == 50
    assert source.frames([0, 7, 199])[:, 0, 0, 0].tolist() == [200, 193, 1]
    chunks = [*source.chunks(size=64)]
    assert [len(chunk.frames) for chunk in chunks] == [64, 64, 64, 8]
    assert all(chunk.ok.all() for chunk in chunks)
    assert len(VideoSource(Countdown(200), max_frames=10)) == 10


@pytest.mark.parametrize(
    ("video", "fps", "message"),
    [
        (Countdown(0), 1.0, "^the Countdown is empty; at least one frame is needed$"),
        (Countdown(2), None, "^expected fps to be a number for a Countdown, which has no timesta"),
        (Countdown(2, (4, 5, 3)), 1.0, r"frame 0 has shape \[4, 5, 3\] and dtype uint8; it must"),
        (Countdown(2, dtype="float32"), 1.0, r"dtype float32; it must be \[4, 6, 3\] uint8$"),
    ],
)
def test_a_source_refuses_what_gives_no_frames(video, fps, message):
    with pytest.raises(ValueError, match=message):
        VideoSource(video, fps=fps).frames()


def test_a_file_of_frames_that_are_drawn_one_by_one(tmp_path):
    from vtc.testing import write_video

    video = random_video(4, 12, size=32)
    write_video(tmp_path / "stack.mp4", video.frames(range(12)))
    write_video(tmp_path / "one-by-one.mp4", video.read(np.arange(12)))
    digest = [
        hashlib.sha256(VideoSource(tmp_path / name, fps=None).frames().tobytes()).hexdigest()
        for name in ("stack.mp4", "one-by-one.mp4")
    ]
    assert digest[0] == digest[1]
