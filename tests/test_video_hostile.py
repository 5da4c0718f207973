"""Files that lie or change, formats that reach out, and properties that must be reported."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vtc.video import VideoError, VideoSource
from vtc.video.timestamps import repair

HEIGHT, WIDTH = 32, 64


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame whose grey level tells its number, modulo 51."""
    return np.full((height, width, 3), number % 51 * 5, dtype=np.uint8)


def number_of(frame: np.ndarray) -> int:
    return round(float(frame.mean()) / 5)


def write(
    path: Path,
    times: list[float],
    *,
    options: dict[str, str] | None = None,
    change: Callable[[av.VideoStream], None] = lambda stream: None,
) -> Path:
    """Encode numbered frames at the given times; the packets carry them, however wild."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".mp4" else "libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        stream.options = {"bf": "0", "threads": "1", **(options or {})}
        change(stream)
        packets = []
        for number in range(len(times)):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = 33 * number, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        ticks = [round(seconds / packets[0].time_base) for seconds in times]
        for number, packet in enumerate(packets):
            packet.pts, packet.dts = ticks[number], min(ticks[number:])
            container.mux_one(packet)
    return path


def steady(count: int, start: float = 0.0) -> list[float]:
    return [start + 0.1 * number for number in range(count)]


# --- timestamps


@pytest.mark.parametrize("option", ["max_frames", "frames"])
def test_samples_are_spread_over_the_frames_that_exist_on_both_sides_of_a_gap(option, tmp_path):
    path = write(tmp_path / "gap.mkv", steady(300) + steady(300, 36_000.0))
    source = VideoSource(path, **{option: 32})
    assert len(source) == 32
    first = int((source.timestamps < 60).sum())
    assert 15 <= first <= 17 and np.diff(source.timestamps[:first]).max() < 2.5
    [warning] = source.warnings
    assert warning.startswith("gap.mkv: has no frame for 35970.1 s after 29.9 s")


@pytest.mark.parametrize("late", [40.0, 500.0, 1e6])
def test_one_late_last_frame_takes_one_sample(late, tmp_path):
    """The same file with a wild last timestamp gave one frame (VideoProcessingFramework#452)."""
    source = VideoSource(write(tmp_path / "late.mkv", [*steady(100), late]), frames=16)
    assert len(source) == 16 and source.timestamps[-2] > 8
    assert "has no frame for" in source.warnings[0]


@pytest.mark.parametrize("wild", [5000.0, 1e6])
def test_wild_timestamps_between_good_ones_are_repaired(wild, tmp_path):
    times = steady(600)
    times[200], times[431] = wild, wild + 777
    source = VideoSource(write(tmp_path / "wild.mkv", times), fps=None)
    assert len(source) == 600 and source.duration == pytest.approx(60, abs=0.2)
    assert [number_of(f) for f in source.frames([199, 200, 201, 431])] == [46, 47, 48, 23]
    assert "2 of 600 timestamps are far from those around them" in source.warnings[0]
    spread = VideoSource(tmp_path / "wild.mkv", max_frames=32)
    assert len(spread) == 32 and np.diff(spread.timestamps).max() < 3


@pytest.mark.parametrize(
    "ticks",
    [
        [*range(0, 500), *range(90_000, 90_500)],  # a gap
        [*range(0, 3000, 30), 4000, 3010, 3020, 4030, 4010, 4020],  # a gap among B-frames
        [*range(0, 100), 10**9],  # a late last frame
        list(range(0, 10**9, 10**7)),  # slides
    ],
)
def test_timestamps_after_which_time_continues_are_kept(ticks):
    repaired, count = repair(np.array(ticks))
    assert repaired.tolist() == ticks and count == 0


def test_frames_of_equal_timestamps_are_all_read(tmp_path):
    """Equal timestamps left 1 of 40 frames (PyAV#1090)."""
    source = VideoSource(write(tmp_path / "equal.mkv", [0.0] * 40), fps=None)
    assert [number_of(frame) for frame in source.frames()] == list(range(40))
    assert (np.diff(source.timestamps) > 0).all()
    assert "39 of 40 frames have the timestamp of the frame before" in source.warnings[0]


def test_pairs_of_equal_timestamps_are_spread_up_to_the_next(tmp_path):
    times = [0.2 * (number // 2) for number in range(20)]
    source = VideoSource(write(tmp_path / "pairs.mkv", times), fps=None)
    np.testing.assert_allclose(source.timestamps, steady(20), atol=1e-6)
    assert [number_of(frame) for frame in source.frames()] == list(range(20))


# --- files that change


def replace(path: Path) -> None:
    other = write(path.with_name("other.mkv"), steady(50))
    os.replace(other, path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [replace, append, touch, Path.unlink])
@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_a_file_that_changes_after_it_was_indexed_is_an_error(change, reader, tmp_path):
    if reader == "decord":
        pytest.importorskip("decord")
    source = VideoSource(write(tmp_path / "video.mkv", steady(50)), reader=reader)
    source.frames([0])
    change(tmp_path / "video.mkv")
    with pytest.raises(VideoError, match=r"^video\.mkv: was changed or replaced"):
        source.frames([0])
    with pytest.raises(VideoError, match="was changed or replaced"):
        list(source.chunks())


def test_a_file_that_changes_during_a_pass_is_an_error(tmp_path):
    source = VideoSource(write(tmp_path / "video.mkv", steady(50)))
    chunks = source.chunks(size=1, prefetch=0)
    next(chunks)
    append(tmp_path / "video.mkv")
    with pytest.raises(VideoError, match="was changed or replaced"):
        list(chunks)


# --- what FFmpeg opens besides a video


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return write(tmp_path / "secret.mkv", steady(20))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "txt"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("ffconcat version 1.0\nfile secret.mkv\n", "an ffconcat script"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mkv\n#EXT-X-ENDLIST\n", "an HLS"),
        ("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\n", "an SDP"),
        ("<?xml version='1.0'?><MPD><Period/></MPD>", "a description in XML"),
        ("file 'secret.mkv'\n", "not a video"),
    ],
)
def test_a_script_that_names_other_files_is_refused(content, kind, suffix, secret):
    path = secret.with_name(f"upload.{suffix}")
    path.write_text(content)
    with pytest.raises(VideoError, match=rf"^upload\.{suffix}: (is )?{kind}"):
        VideoSource(path)


def test_a_pattern_in_a_name_stands_for_itself(tmp_path):
    Image.fromarray(picture(3)).save(tmp_path / "a1.png")
    for pattern in ("a%d.png", "a*.png", "a?.png"):
        with pytest.raises(VideoError, match="there is no such file"):
            VideoSource(tmp_path / pattern)
    Image.fromarray(picture(7)).save(tmp_path / "a%d.png")
    [frame] = VideoSource(tmp_path / "a%d.png").frames()
    assert number_of(frame) == 7


def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match=r"^pipe\.mp4: .* got a pipe, .* save it to a file"):
        VideoSource(tmp_path / "pipe.mp4")


def test_a_process_substitution_is_refused_at_once():
    code = "import sys, vtc.video\ntry: vtc.video.VideoSource(sys.argv[1])\n"
    code += "except vtc.video.VideoError as error: print(error)"
    line = f"{sys.executable} -c '{code}' <(cat /dev/zero)"
    out = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert "got a pipe, which can be read only once" in out.stdout, out.stderr


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(path):
    with pytest.raises(VideoError, match="expected a video file, got a device"):
        VideoSource(path)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no\0name.mp4", VideoError, "null"),
        ("x" * 300 + ".mp4", VideoError, "cannot be opened"),
        ("", VideoError, "got a folder"),
        (b"video.mp4", TypeError, "expected a video to be a path, .* got bytes"),
        (bytearray(4), TypeError, "got bytearray"),
        (memoryview(b"1234"), TypeError, "got memoryview"),
        (None, TypeError, "got NoneType"),
        ({"video": "a.mp4"}, TypeError, "got dict"),
        (3, TypeError, "got int"),
        ("file://other.host/a.mp4", VideoError, "is an address"),
        ("https://example.org/a.mp4", VideoError, "is an address"),
    ],
)
def test_what_is_no_path_is_refused_in_words(path, error, message):
    with pytest.raises(error, match=message) as caught:
        VideoSource(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["video.mkv", "my talk 100% #1.mkv", "ünïcode ?.mkv"])
@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_file_address_is_a_path(name, host, tmp_path):
    path = write(tmp_path / name, steady(5))
    address = path.as_uri().replace("file://", f"file://{host}")
    assert VideoSource(address, fps=None).info.frame_count == 5
    if "%" not in name:
        assert VideoSource(f"file://{host}{path}", fps=None).info.frame_count == 5


# --- properties that change how a video looks


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_reported(transfer, name, tmp_path):
    def tag(stream):
        stream.codec_context.color_trc = transfer

    path = write(tmp_path / "hdr.mkv", steady(5), change=tag)
    [warning] = VideoSource(path).warnings
    assert f"is HDR ({name})" in warning and "tone mapping" in warning


def test_interlacing_is_reported(tmp_path):
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    path = write(tmp_path / "interlaced.mkv", steady(5), options=options)
    [warning] = VideoSource(path).warnings
    assert "is interlaced" in warning and "bwdif" in warning


@pytest.mark.parametrize(
    ("ratio", "size"), [((64, 45), (91, 32)), ((1, 2), (64, 64)), ((99, 100), (64, 32))]
)
def test_frames_have_square_pixels(ratio, size, tmp_path):
    def stretch(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(*ratio)

    path = write(tmp_path / "wide.mkv", steady(5), change=stretch)
    source = VideoSource(path)
    assert (source.width, source.height) == size
    assert source.frames().shape == (1, size[1], size[0], 3) and source.warnings == []
    if size != (64, 32):
        pytest.importorskip("decord")
        with pytest.raises(VideoError, match="not square"):
            VideoSource(path, reader="decord")


def test_of_two_video_streams_the_one_that_is_read_is_named(tmp_path):
    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        sizes = ((32, 32), (64, 48))
        streams = [container.add_stream("libx264", rate=10) for _ in sizes]
        for stream, (width, height) in zip(streams, sizes, strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for stream, (width, height) in zip(streams, sizes, strict=True):
            for number in range(4):
                frame = picture(number, height, width)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    source = VideoSource(tmp_path / "two.mkv")
    number = sizes.index((source.width, source.height))
    size = f"{source.width}x{source.height}"
    assert source.warnings == [f"two.mkv: has 2 video streams; stream {number} ({size}) is read"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("given", ["picture.png", "picture.jpg", "list"])
def test_exif_orientation_is_applied(orientation, given, tmp_path):
    from PIL import ImageOps

    corners = np.zeros((40, 64, 3), dtype=np.uint8)
    corners[:20, :32], corners[:20, 32:], corners[20:, :32] = 255, 160, 80
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / (given if given != "list" else "picture.png")
    Image.fromarray(corners).save(path, exif=exif, **({"quality": 95} if "jpg" in given else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    video = [Image.open(path)] if given == "list" else path
    [frame] = VideoSource(video).frames()
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_pictures_of_16_bits_keep_their_levels(mode, tmp_path):
    ramp = np.stack([np.linspace(0, 65535, 64)] * 2)
    deep = ramp.astype(">u2" if mode.endswith("B") else "<u2")
    deep = Image.frombytes(mode, (64, 2), deep.tobytes())
    [frame] = VideoSource([deep]).frames()
    assert np.abs(frame[0, :, 0].astype(int) - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pictures_without_a_range_are_refused(mode):
    with pytest.raises(ValueError, match=f"8 or 16 bits per channel, .* mode {mode}"):
        VideoSource([Image.new(mode, (4, 4))])


class Flat:
    """A sequence of frames without rows."""

    height, width = 0, 4

    def __len__(self) -> int:
        return 2

    def read(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        yield from (np.zeros((0, 4, 3), np.uint8) for _ in indices)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((2, 0, 4, 3), np.uint8), r"got the shape \[2, 0, 4, 3\]"),
        (np.zeros((2, 4, 0, 3), np.uint8), r"got the shape \[2, 4, 0, 3\]"),
        ([np.zeros((4, 0, 3), np.uint8)], "expected frame 0 to have pixels, got 0x4"),
        ([Image.new("RGB", (0, 4))], "expected frame 0 to have pixels, got 0x4"),
        (Flat(), "expected height >= 1 of a Flat, got 0"),
    ],
)
def test_frames_without_pixels_are_refused(video, message):
    with pytest.raises(ValueError, match=message):
        VideoSource(video)


@pytest.mark.parametrize("fps", [1e308, float("inf"), 5e-324, 1e-300])
def test_a_rate_beyond_all_cameras_is_refused(fps, secret):
    for video in (secret, np.zeros((2, 4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected fps to be a number from 1e-06 to 1e"):
            VideoSource(video, fps=fps)


@pytest.mark.parametrize("option", ["frames", "max_frames", "keep"])
def test_a_number_without_bounds_is_refused(option, secret):
    with pytest.raises(ValueError, match=f"expected {option} to be a whole number of at most"):
        VideoSource(secret, **{option: 10**400})


# --- other processes


@pytest.mark.parametrize("options", [{"keep": 10**9}, {"reader": "decord"}, {"max_frames": 3}])
def test_a_source_is_pickled_and_read_in_another_process(options, secret):
    """Unpicklable data sets hang the workers of a DataLoader (pytorch#142884)."""
    if "reader" in options:
        pytest.importorskip("decord")
    source = VideoSource(secret, fps=None, **options)
    first = source.frames([0])
    code = "import pickle, sys; source = pickle.load(sys.stdin.buffer); "
    code += "sys.stdout.buffer.write(source.frames().tobytes())"
    out = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, timeout=120
    )
    assert out.stdout == source.frames().tobytes(), out.stderr
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).frames([0]), first)
