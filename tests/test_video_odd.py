"""Damaged, unusual and wrong input: frames with a warning, or an error of one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import vtc
from vtc.video import VideoError, VideoSource
from vtc.video.pyav_reader import _colours
from vtc.video.reader import Picture, VideoInfo
from vtc.video.samples import Samples

CLIPS = Path(__file__).parents[1].parent / "shared" / "clips"
ODD = CLIPS / "odd"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no test clips in {CLIPS}")

REFUSED = {
    "audio_only.mp4": "audio_only.mp4: has no video stream, only audio",
    "cover_art.m4a": "cover_art.m4a: has no video stream, only audio and cover art",
    "random.mp4": "random.mp4: not a video that FFmpeg can read",
    "text.mp4": "text.mp4: not a video that FFmpeg can read",
    "trunc_nomoov.mp4": "trunc_nomoov.mp4: an MP4 without its index",
    "zero.mp4": "zero.mp4: the file is empty",
}
GIVEN = {  # (frames that the file holds and shows, width, height after rotation)
    "anim.gif": (30, 320, 180),
    "av1.mkv": (125, 640, 360),
    "corrupt_mid.mp4": (289, 1280, 720),
    "decord_corrupted.mp4": (50, 1280, 720),
    "decord_unordered.mov": (4, 50, 50),
    "editlist_cut.mp4": (208, 1280, 720),
    "fragmented.mp4": (120, 640, 360),
    "h264_10bit.mp4": (30, 200, 200),
    "hevc.mp4": (10, 128, 128),
    "hevc_10bit.mp4": (90, 640, 360),
    "image_as_video.png": (1, 1280, 720),
    "noduration.mkv": (152, 1280, 720),
    "odd_427x241.webm": (90, 427, 241),
    "odd_427x241_yuv444.mp4": (90, 427, 241),
    "ok.ts": (120, 640, 360),
    "one_frame.mp4": (1, 1280, 720),
    "raw.h264": (92, 1280, 720),
    "res_change.ts": (120, 640, 360),
    "rot90.mp4": (289, 720, 1280),
    "trunc_faststart.mp4": (172, 1280, 720),
}
WARNED = {
    "corrupt_mid.mp4": ["1 of 10 sampled frames came out damaged"],
    "decord_corrupted.mp4": ["1 of 5 sampled frames could not be decoded; the last good frame"],
    "raw.h264": ["holds no timestamps; its frames are taken to come at 29.97 FPS"],
    "res_change.ts": ["timestamps jump back at frame 60", "changes from 640x360 to 480x270"],
    "trunc_faststart.mp4": ["117 of 289 declared frames are missing (the file is cut off after"],
}


@needs_clips
def test_every_odd_file_has_its_expectation() -> None:
    assert {path.name for path in ODD.iterdir()} == REFUSED.keys() | GIVEN.keys()


@needs_clips
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_video_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(VideoError) as caught:
        VideoSource(ODD / name)
    assert str(caught.value).startswith(REFUSED[name])
    assert "\n" not in str(caught.value)


@needs_clips
@pytest.mark.parametrize("name", sorted(GIVEN))
def test_what_can_be_read_is_read_and_losses_are_told(name: str) -> None:
    source = VideoSource(ODD / name)
    count, width, height = GIVEN[name]
    assert (source.info.frame_count, source.width, source.height) == (count, width, height)
    ok = []
    for chunk in source.chunks():
        assert chunk.frames.shape[1:] == (height, width, 3)
        ok += chunk.ok.tolist()
    assert len(ok) == len(source) == len(source.timestamps)
    warnings = WARNED.get(name, [])
    assert len(source.warnings) == len(warnings)
    for warning, start in zip(source.warnings, warnings, strict=True):
        assert warning.startswith(f"{name}: ") and start in warning
    assert ok.count(False) == (name in {"corrupt_mid.mp4", "decord_corrupted.mp4"})


@needs_clips
@pytest.mark.parametrize("clip", sorted((CLIPS / "real").glob("*.m*")), ids=lambda p: p.name)
def test_real_clips_are_read_without_a_warning(clip: Path) -> None:
    source = VideoSource(clip, frames=5)
    assert source.frames().shape[:3] == (len(source), source.height, source.width)
    two_streams = ["tc_nasa_13013.mp4: has 2 video streams; stream 3 (480x270) is read"]
    assert source.warnings == (two_streams if clip.name == "tc_nasa_13013.mp4" else [])


@needs_clips
def test_the_best_stream_is_read() -> None:
    source = VideoSource(CLIPS / "real" / "tc_nasa_13013.mp4")
    assert (source.width, source.height, source.info.frame_count) == (480, 270, 390)


@needs_clips
def test_rotation_is_applied() -> None:
    upright = VideoSource(ODD / "rot90.mp4").frames([3])[0]
    stored = VideoSource(CLIPS / "real" / "sam2_01_dog.mp4").frames([3])[0]
    np.testing.assert_array_equal(upright, stored.transpose(1, 0, 2)[::-1])


@needs_clips
def test_the_sample_before_a_lost_one_stands_in() -> None:
    chunks = list(VideoSource(ODD / "decord_corrupted.mp4", fps=None).chunks(size=9))
    frames = np.concatenate([chunk.frames for chunk in chunks])
    ok = np.concatenate([chunk.ok for chunk in chunks])
    assert np.flatnonzero(~ok).tolist() == [30, 32]  # 30 is lost, 32 damaged
    np.testing.assert_array_equal(frames[30], frames[29])
    assert np.any(frames[32] != frames[31])


class LossyReader:
    """Frames filled with their position; some cannot be decoded, some are damaged."""

    name, times, warnings, in_memory = "lossy", np.arange(8.0), [], True
    info = VideoInfo(1, 1, 8.0, 8, 1.0, "none", "none")

    def __init__(self, lost: set[int], damaged: set[int] = frozenset()) -> None:
        self.lost, self.damaged = lost, damaged

    def read(self, positions: np.ndarray) -> Iterator[Picture]:
        for position in positions.tolist():
            if position not in self.lost:
                pixels = np.full((1, 1, 3), position, dtype=np.uint8)
                yield Picture(position, pixels, position not in self.damaged)

    def decodable(self, positions: np.ndarray) -> np.ndarray:
        return np.array([position not in self.lost for position in positions.tolist()])


def test_the_last_good_sample_stands_in_and_the_first_good_one_at_the_start() -> None:
    samples = Samples(LossyReader({0, 1, 4, 5, 7}, {3}), np.arange(8))
    pictures = list(samples.read(np.arange(8)))
    assert [p.pixels[0, 0, 0] for p in pictures] == [2, 2, 2, 3, 3, 3, 6, 6]
    assert [p.intact for p in pictures] == [False, False, True, False, False, False, True, False]
    assert samples.warnings == [
        "lossy: 5 of 8 sampled frames could not be decoded; "
        "the last good frame before each replaces it",
        "lossy: 1 of 8 sampled frames came out damaged; the decoder guessed parts of them",
    ]


@pytest.mark.parametrize("asked", [[5], [0, 5], [4, 5, 7], [1]])
def test_a_lost_sample_asked_for_alone(asked: list[int]) -> None:
    samples = Samples(LossyReader({0, 1, 4, 5, 7}), np.arange(8))
    shown = [int(p.pixels[0, 0, 0]) for p in samples.read(np.array(asked))]
    assert shown == [{0: 2, 1: 2, 4: 3, 5: 3, 7: 6}[i] for i in asked]


def test_nothing_decodable_is_an_error() -> None:
    with pytest.raises(VideoError, match="lossy: none of its sampled frames can be decoded"):
        list(Samples(LossyReader(set(range(8))), np.arange(8)).read(np.array([3])))


@needs_clips
def test_pictures_without_a_video_stream_number(tmp_path: Path) -> None:
    """A file name that FFmpeg would take for a protocol and a pattern."""
    path = tmp_path / "talk: part %03d.mp4"
    path.write_bytes((ODD / "one_frame.mp4").read_bytes())
    assert len(VideoSource(path)) == 1


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"^no\.mp4: there is no such file in "):
        VideoSource(tmp_path / "no.mp4")
    with pytest.raises(VideoError, match="expected a video file, got a folder"):
        VideoSource(str(tmp_path))


# Kr, Kb of the matrices that FFmpeg numbers 1 (BT.709), 6 (BT.601) and 9 (BT.2020)
MATRICES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv444p"])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_matrix_and_range(pixel_format: str, matrix: int, full_range: bool) -> None:
    luma, blue, red = 120, 90, 170
    frame = av.VideoFrame(64, 64, pixel_format)
    for plane, value in zip(frame.planes, (luma, blue, red), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
    rgb = av.video.reformatter.VideoReformatter().reformat(
        frame, 64, 64, "rgb24", interpolation="BICUBIC", **_colours(frame)
    )
    full = full_range or pixel_format == "yuvj420p"
    y = luma if full else (luma - 16) * 255 / 219
    chroma = 2 if full else 2 * 255 / 224
    kr, kb = MATRICES[matrix]
    r = y + (1 - kr) * chroma * (red - 128)
    b = y + (1 - kb) * chroma * (blue - 128)
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    assert np.abs(rgb.to_ndarray()[32, 32] - np.array([r, g, b])).max() < 2


FRAMES = np.random.default_rng(0).integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("video", "name"),
    [
        (FRAMES, "array of 10 frames"),
        (list(FRAMES), "list of 10 frames"),
        ([Image.fromarray(frame) for frame in FRAMES], "list of 10 frames"),
    ],
    ids=["array", "list of arrays", "list of images"],
)
def test_frames_in_memory_are_samples(video: object, name: str) -> None:
    source = VideoSource(video, fps=4.0)
    assert source.name == name
    np.testing.assert_array_equal(source.timestamps, np.arange(10) / 4)
    np.testing.assert_array_equal(source.frames(), FRAMES)
    chunks = list(source.chunks([1, 4, 9], size=2))
    assert [chunk.indices.tolist() for chunk in chunks] == [[1, 4], [9]]
    np.testing.assert_array_equal(chunks[0].frames, FRAMES[[1, 4]])
    np.testing.assert_array_equal(VideoSource(video, frames=2).frames(), FRAMES[[2, 7]])
    np.testing.assert_array_equal(VideoSource(video, max_frames=2).frames(), FRAMES[[2, 7]])


def test_a_tensor_is_an_array() -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(VideoSource(torch.from_numpy(FRAMES)).frames(), FRAMES)


def test_a_tensor_that_numpy_cannot_hold_is_named() -> None:
    torch = pytest.importorskip("torch")
    for video in (torch.zeros(4, 8, 8, 3).bfloat16(), torch.zeros(4, 8, 8, 3, device="meta")):
        with pytest.raises(TypeError, match=f"uint8, got Tensor of dtype .* on {video.device}"):
            VideoSource(video)


@pytest.mark.parametrize("suffix", ["tiff", "gif", "png", "webp"])
def test_pictures_of_several_frames_are_read_whole_or_said(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"frames.{suffix}"
    first, *others = [Image.fromarray(frame) for frame in FRAMES]
    first.save(file, save_all=True, append_images=others, duration=100)
    if suffix == "webp":
        with pytest.raises(VideoError, match="FFmpeg reads no animated WebP: save it as GIF"):
            VideoSource(file, fps=None)
        return
    source = VideoSource(file, fps=None)
    warning = "frames.tiff: holds 10 pictures; only the first is read"
    assert (len(source), source.warnings) == ((1, [warning]) if suffix == "tiff" else (10, []))


def test_a_video_that_starts_late_ends_when_it_should(tmp_path: Path) -> None:
    """Matroska counts its duration from 0; the rest looked lost."""
    with av.open(str(tmp_path / "late.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 8, 6, "bgr0"
        for number, pixels in enumerate(FRAMES):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = 10_000 + number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = VideoSource(tmp_path / "late.mkv", fps=None)
    assert source.warnings == [] and source.duration == pytest.approx(1.0)


def test_a_source_of_a_source_shares_it() -> None:
    source = VideoSource(FRAMES, fps=4.0)
    again = VideoSource(source)
    assert len(again) == 10 and again.timestamps is source.timestamps
    with pytest.raises(ValueError, match="this VideoSource is sampled already"):
        VideoSource(source, max_frames=3)


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        (
            np.zeros((2, 3, 4, 5), np.uint8),
            ValueError,
            r"\[N, H, W, 3\].* got the shape \[2, 3, 4, 5\]",
        ),
        (np.zeros((2, 4, 5, 3), np.float32), ValueError, "uint8.* dtype float32"),
        (np.zeros((0, 4, 5, 3), np.uint8), ValueError, "an empty array; at least one frame"),
        ([], ValueError, "an empty list; at least one frame"),
        (
            [FRAMES[0], FRAMES[1][:4]],
            ValueError,
            "of one size, got 8x6 for frame 0 and 8x4 for frame 1",
        ),
        ([FRAMES[0], FRAMES[1] / 255], ValueError, "expected frame 1 to be .* uint8.*float64"),
        (["a.png", "b.png"], TypeError, "expected a list of PIL images .*, got str as frame 0"),
        (object(), TypeError, "a video to be a path, an array, .* got object"),
    ],
)
def test_wrong_videos(video: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        VideoSource(video)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"fps": 0},
            ValueError,
            "fps to be a number from 1e-06 to 1e.06, or None for every frame, got 0",
        ),
        ({"fps": float("nan")}, ValueError, "expected fps to be a number .* got nan"),
        ({"fps": "2"}, TypeError, "expected fps to be a number, .* got '2'"),
        ({"fps": None}, ValueError, "frames in memory, which have no timestamps"),
        ({"frames": 0}, ValueError, "frames to be a whole number of at least 1, got 0"),
        ({"max_frames": 2.5}, TypeError, "max_frames to be a whole number, got 2.5"),
        (
            {"reader": "opencv"},
            ValueError,
            "expected reader to be 'pyav' or 'decord', got 'opencv'",
        ),
    ],
)
def test_wrong_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        VideoSource(FRAMES, **options)


def test_the_rate_may_be_given_by_position() -> None:
    assert VideoSource(FRAMES, 2.0).timestamps[1] == 0.5


@needs_clips
def test_a_rate_and_a_number_exclude_one_another() -> None:
    with pytest.raises(ValueError, match="expected either fps or frames, got fps=2.0, frames=8"):
        VideoSource(ODD / "ok.ts", fps=2.0, frames=8)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([3, 2], ValueError, "indices in strictly ascending order"),
        ([2, 2], ValueError, "indices in strictly ascending order"),
        (
            [4, 10],
            ValueError,
            "indices from 0 to 9, the samples of array of 10 frames, got 4 to 10",
        ),
        ([-1], ValueError, "indices from 0 to 9"),
        ([0.5], TypeError, "expected indices to be whole numbers"),
    ],
)
def test_wrong_indices(indices: list, error: type[Exception], message: str) -> None:
    source = VideoSource(FRAMES)
    with pytest.raises(error, match=message):
        source.frames(indices)
    with pytest.raises(error, match=message):
        source.chunks(indices)


def test_no_indices_give_no_frames() -> None:
    source = VideoSource(FRAMES)
    assert source.frames([]).shape == (0, 6, 8, 3)
    assert list(source.chunks([])) == []


@needs_clips
def test_a_missing_decord_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match='pip install decord==0.6.0`, or use reader="pyav"'):
        VideoSource(ODD / "ok.ts", reader="decord")


@pytest.mark.parametrize("module", ["torch", "decord", "transformers"])
def test_reading_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, vtc.video; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_that_ends_in_its_index_is_refused(tmp_path):
    path = tmp_path / "cut.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=2, fps=2), 2)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"stsd")])  # before the name of the codec
    message = "cut.mp4: no decoder for its video stream; is the file complete"
    with pytest.raises(VideoError, match=message):
        VideoSource(path)
