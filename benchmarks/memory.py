"""Peak memory of the whole path at 1,000 and at 10,000 frames of a video file.

    python benchmarks/memory.py [--frames 1000,10000] [--json]

Each length runs in a process of its own: a file of that many frames, the tiny LLaVA-OneVision with
random weights, dks + dfm, 32 keyframes, one new token. Shown is the peak of the resident memory,
and how much it may grow: the merged tokens, the embeddings and 100 MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def measure(file: Path) -> dict[str, float]:
    """Run one length in this process."""
    import torch

    import vtc

    torch.set_num_threads(1)
    model, processor = vtc.testing.tiny("llava_onevision")
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(model, vtc.selector("dks"), processor=processor, encoder=encoder)
    answer = vtc.ask(model, processor, file, "What happens?", fps=None, max_new_tokens=1)
    width = model.config.text_config.hidden_size
    return {
        "frames": answer.report.frames,
        "tokens_after": answer.report.tokens_after,
        "tokens_mb": answer.report.tokens_after * width * 4 / 2**20,
        "embeddings_mb": answer.report.frames * encoder.dim * 4 / 2**20,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": sum(stage.seconds for stage in answer.report.stages.values()),
    }


def write_long_video(file: Path, frames: int) -> None:
    """A file of many small frames: squares that cross a textured ground."""
    from vtc.testing import moving_squares, write_video

    write_video(file, moving_squares(seconds=frames // 10, size=(64, 96)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", default="1000,10000")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file:
        print(json.dumps(measure(arguments.file)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in map(int, arguments.frames.split(",")):
            file = Path(folder, f"{frames}.mp4")
            write_long_video(file, frames)
            command = [sys.executable, __file__, "--file", str(file)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(run.stdout.splitlines()[-1]))
    first, last = rows[0], rows[-1]
    grown = last["peak_mb"] - first["peak_mb"]
    allowed = 100 + sum(last[key] - first[key] for key in ("tokens_mb", "embeddings_mb"))
    if arguments.json:
        print(json.dumps({"runs": rows, "grown_mb": grown, "allowed_mb": allowed}, indent=2))
        return
    print("frames  tokens  peak MB  seconds")
    for row in rows:
        print(
            f"{row['frames']:6}  {row['tokens_after']:6}  {row['peak_mb']:7.0f}"
            f"  {row['seconds']:7.1f}"
        )
    print(f"grown by {grown:.0f} MB; the limit is {allowed:.0f} MB")


if __name__ == "__main__":
    main()
