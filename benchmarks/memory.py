"""Measure the peak memory of the whole pipeline at 1,000 and at 10,000 frames of a video.

    python benchmarks/memory.py [--frames 1000,10000] [--max-tokens N] [--drawn] [--json]
    python benchmarks/memory.py --frames 10000,100000 --max-tokens 8192 --drawn

Each length runs in its own process: a file of that many frames (with --drawn, frames that are drawn
on the fly), the tiny LLaVA-OneVision with random weights, dks + dfm, 32 keyframes, one new token.
The output is the peak resident memory, and the allowed growth: the merged tokens, the embeddings
and 100 MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def measure(video: Any, max_tokens: int | None) -> dict[str, float]:
    """Run one length in this process."""
    import torch

    import vtc

    torch.set_num_threads(1)
    fps = 1.0 if isinstance(video, Drawn) else None
    model, processor = vtc.testing.tiny("llava_onevision")
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(model, "dks", processor=processor, encoder=encoder, budget=max_tokens)
    source = vtc.VideoSource(video, fps=fps, keep=0)  # kept frames may take another 1 GB
    answer = vtc.ask(model, processor, source, "What happens?", max_new_tokens=1)
    width = model.config.text_config.hidden_size
    return {
        "frames": answer.report.frames,
        "tokens_after": answer.report.tokens_after,
        "tokens_mb": answer.report.tokens_after * width * 4 / 2**20,
        "embeddings_mb": answer.report.frames * encoder.dim * 4 / 2**20,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": sum(stage.seconds for stage in answer.report.stages.values()),
    }


class Drawn:
    """A square that moves over a background whose colour changes every 500 frames."""

    height, width = 64, 96

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        for number in indices.tolist():
            rng = np.random.default_rng(number // 500)
            frame = np.full((64, 96, 3), rng.integers(0, 256, 3), dtype=np.uint8)
            left = number % 80
            frame[20:36, left : left + 16] = rng.integers(0, 256, 3)
            yield frame


def write_long_video(file: Path, frames: int) -> None:
    """Write a file of many small frames: squares that cross a textured background."""
    from vtc.testing import moving_squares, write_video

    write_video(file, moving_squares(seconds=frames // 10, size=(64, 96)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", default="1000,10000")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--max-tokens", type=int, help="a budget of visual tokens")
    parser.add_argument("--drawn", action="store_true", help="draw frames on the fly")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file or arguments.count:
        video = Drawn(arguments.count) if arguments.count else arguments.file
        print(json.dumps(measure(video, arguments.max_tokens)))
        return
    more = [] if arguments.max_tokens is None else ["--max-tokens", str(arguments.max_tokens)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in map(int, arguments.frames.split(",")):
            if arguments.drawn:
                source = ["--count", str(frames)]
            else:
                file = Path(folder, f"{frames}.mp4")
                write_long_video(file, frames)
                source = ["--file", str(file)]
            command = [sys.executable, __file__, *source, *more]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(run.stdout.splitlines()[-1]))
    first, last = rows[0], rows[-1]
    growth = last["peak_mb"] - first["peak_mb"]
    allowed = 100 + sum(last[key] - first[key] for key in ("tokens_mb", "embeddings_mb"))
    if arguments.json:
        print(json.dumps({"runs": rows, "grown_mb": growth, "allowed_mb": allowed}, indent=2))
        return
    print("frames  tokens  peak MB  seconds")
    for row in rows:
        print(
            f"{row['frames']:6}  {row['tokens_after']:6}  {row['peak_mb']:7.0f}"
            f"  {row['seconds']:7.1f}"
        )
    print(f"growth: {growth:.0f} MB; limit: {allowed:.0f} MB")


if __name__ == "__main__":
    main()
