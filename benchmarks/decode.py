"""Compare the speed of reading one frame per second with vtc, plain PyAV, decord and torchcodec.

    python benchmarks/decode.py --clips ../shared/clips/real --folder /tmp/vtc-benchmark

Creates a 720p H.264 file by looping the clips (once; it stays in the folder), then reads the same
full-resolution RGB frames with every reader in turn, in several rounds, and compares the medians.
CPU time is the sum over all threads, so it is comparable even if other work runs on the machine.
decord and torchcodec are included if they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import av
import numpy as np

from vtc.video import Chunk, VideoSource

WIDTH, HEIGHT, RATE = 1280, 720, 30
BATCH = 32


def make_file(clips: Path, folder: Path, minutes: float) -> Path:
    """Loop the clips into one file: x264 veryfast, crf 23, GOP of at most 250 frames."""
    path = folder / f"loop-{WIDTH}x{HEIGHT}-{minutes:g}min.mp4"
    if path.exists():
        return path
    sources = sorted(clips.glob("*.mp4"))
    if not sources:
        raise SystemExit(f"no .mp4 in {clips}: give a folder of clips with --clips")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.mp4")
    with av.open(str(unfinished), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23", "g": "250"}
        for number, frame in enumerate(_frames(sources, round(minutes * 60 * RATE))):
            picture = frame.reformat(WIDTH, HEIGHT, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return unfinished.rename(path)


def _frames(sources: list[Path], count: int) -> Iterator[av.VideoFrame]:
    for source in cycle(sources):
        with av.open(str(source)) as container:
            stream = max(container.streams.video, key=lambda s: s.width)
            for frame in container.decode(stream):
                if count == 0:
                    return
                count -= 1
                yield frame


def read_vtc(path: Path, seconds: int) -> int:
    """Read with the toolkit, including its index pass."""
    return sum(len(chunk.frames) for chunk in VideoSource(path).chunks(size=BATCH))


def read_pyav(path: Path, seconds: int) -> int:
    """Read as people usually do: decode everything in order, convert one frame per second."""
    count = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if count < seconds and frame.time >= count - 1e-6:
                frame.to_ndarray(format="rgb24")
                count += 1
    return count


def read_decord(path: Path, seconds: int) -> int:
    """Read with decord's get_batch, 32 frames at a time; the file has a constant rate."""
    import decord

    video = decord.VideoReader(str(path))
    indices = np.arange(seconds) * RATE
    batches = np.split(indices, range(BATCH, seconds, BATCH))
    return sum(len(video.get_batch(batch.tolist()).asnumpy()) for batch in batches)


def read_torchcodec(path: Path, seconds: int) -> int:
    """Read with torchcodec in exact mode, with FFmpeg's default threads, 32 frames at a time."""
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=0)
    batches = np.split(np.arange(seconds), range(BATCH, seconds, BATCH))
    return sum(len(video.get_frames_played_at(batch.tolist()).data) for batch in batches)


READERS: dict[str, Callable[[Path, int], int]] = {
    "vtc": read_vtc,
    "PyAV sequential": read_pyav,
}
OPTIONAL: dict[str, tuple[str, Callable[[Path, int], int]]] = {
    "decord get_batch": ("decord", read_decord),
    "torchcodec exact": ("torchcodec", read_torchcodec),
}


def usable(path: Path) -> dict[str, Callable[[Path, int], int]]:
    """Return the readers that can read the first second; print why the others cannot."""
    readers = dict(READERS)
    for name, (module, read) in OPTIONAL.items():
        if find_spec(module) is None:
            print(f"{name} is skipped: {module} is not installed")
            continue
        try:
            read(path, 1)
        except RuntimeError as error:  # torchcodec without FFmpeg's libraries
            print(f"{name} is skipped: {str(error).splitlines()[0]}")
        else:
            readers[name] = read
    return readers


def measure(path: Path, seconds: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the wall and CPU seconds of each reader in each round; the readers alternate."""
    readers = usable(path)
    results: dict[str, dict[str, list[float]]] = {n: {"wall": [], "cpu": []} for n in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = read(path, seconds)
            results[name]["wall"].append(time.perf_counter() - wall)
            results[name]["cpu"].append(time.process_time() - cpu)
            if count != seconds:
                raise RuntimeError(f"{name} gave {count} frames, not {seconds}")
    return results


def together(path: Path, videos: int, rounds: int) -> dict[str, list[float]]:
    """Return the wall seconds to read 64 frames of several videos, sequentially and concurrently.

    A wrapped model reads a batch concurrently: it starts two videos ahead.
    """
    ways: dict[str, Callable[[], int]] = {
        "one by one": lambda: sum(_count(_begin(path)) for _ in range(videos)),
        "at once": lambda: sum(map(_count, [_begin(path) for _ in range(videos)])),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, read in ways.items():
            began = time.perf_counter()
            if read() != 64 * videos:
                raise RuntimeError(f"{path.name}: not all frames were given")
            times[name].append(time.perf_counter() - began)
    return times


def _begin(path: Path) -> Iterator[Chunk]:
    return VideoSource(path, frames=64).chunks(size=BATCH)


def _count(chunks: Iterator[Chunk]) -> int:
    return sum(len(chunk.frames) for chunk in chunks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder of .mp4 files to loop")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "vtc-benchmark",
        help="folder for the looped file",
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--videos", type=int, default=4, help="number of videos in a batch")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()

    path = make_file(options.clips, options.folder, options.minutes)
    seconds = round(options.minutes * 60)
    results = measure(path, seconds, options.rounds)
    batch = together(path, options.videos, options.rounds)
    median = {
        name: {kind: statistics.median(values) for kind, values in times.items()}
        for name, times in results.items()
    }
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if options.json:
        facts = {"frames": seconds, "cores": os.cpu_count(), "load": load, "av": av.__version__}
        print(json.dumps({**facts, "median": median, "rounds": results, "batch": batch}, indent=2))
        return
    print(f"{seconds} frames of {WIDTH}x{HEIGHT}, {os.cpu_count()} cores, load {load}")
    print(f"{'reader':18}{'wall s':>8}{'ratio':>7}{'CPU s':>8}{'ratio':>7}{'frames/s':>10}")
    for name, times in median.items():
        wall, cpu = times["wall"], times["cpu"]
        print(
            f"{name:18}{wall:8.1f}{wall / median['vtc']['wall']:7.2f}"
            f"{cpu:8.1f}{cpu / median['vtc']['cpu']:7.2f}{seconds / wall:10.1f}"
        )
    print(f"{options.videos} videos of 64 frames, read")
    for name, walls in batch.items():
        print(f"{name:18}{statistics.median(walls):8.1f}")


if __name__ == "__main__":
    main()
