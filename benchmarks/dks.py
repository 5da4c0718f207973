"""Measure the time and memory of keyframe selection against forming the N x N cosine matrix.

    python benchmarks/dks.py            # 10,000 frames, d = 512, K = 32, two threads
    python benchmarks/dks.py --json

Each video is generated from a seed. ``scenes`` is the usual case; the others bound the time: from
``unlike`` frames the first K are selected, from a ``static`` video one, and from ``few`` one less
than K, so that every frame is compared with all selected ones. The two ways are timed alternately,
and their keyframes are compared. Memory is the growth of the peak resident size of a fresh process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc_selectors.dks import DKS


def make_video(kind: str, frames: int, dim: int, keyframes: int) -> tuple[Tensor, Tensor]:
    """Return embeddings ``[N, d]`` and a query ``[d]``, float32 unit vectors."""
    generator = torch.Generator().manual_seed(0)
    scenes = {"scenes": 200, "unlike": frames, "static": 1, "few": keyframes - 1}[kind]
    centres = F.normalize(torch.randn(scenes, dim, generator=generator), dim=-1)
    # In place and row by row, so that the process never holds more than the embeddings.
    embeddings = torch.empty(frames, dim)
    for frame, row in enumerate(embeddings):
        row.normal_(generator=generator).mul_(0.2 / dim**0.5).add_(
            centres[frame * scenes // frames]
        )
        row.div_(row.norm())
    return embeddings, F.normalize(torch.randn(dim, generator=generator), dim=-1)


def cosine_matrix(embeddings: Tensor) -> Tensor:
    """Return the ``[N, N]`` cosines that the released code computes first."""
    unit = F.normalize(embeddings, dim=-1)
    return unit @ unit.T


def select_by_matrix(matrix: Tensor, relevance: Tensor, config: DKS.Config) -> list[int]:
    """Run Algorithm 1 on the full cosine matrix."""
    redundancy = torch.full_like(relevance, -torch.inf)
    taken: list[int] = []
    for frame in relevance.argsort(descending=True, stable=True).tolist():
        if len(taken) < config.keyframes and redundancy[frame] < config.similarity_threshold:
            taken.append(frame)
            redundancy = redundancy.maximum(matrix[frame])
    return sorted(taken)


def compare_times(kind: str, options: argparse.Namespace) -> dict[str, object]:
    """Return the median seconds of both ways, timed alternately."""
    embeddings, query = make_video(kind, options.frames, options.dim, options.keyframes)
    selector = DKS(DKS.Config(keyframes=options.keyframes))
    selection = selector.select(embeddings, query)
    matrix = cosine_matrix(embeddings)
    expected = select_by_matrix(matrix, embeddings @ query, selector.config)
    del matrix
    ours, theirs = [], []
    for _ in range(options.repeats):
        start = perf_counter()
        selector.select(embeddings, query)
        middle = perf_counter()
        cosine_matrix(embeddings)
        ours.append(middle - start)
        theirs.append(perf_counter() - middle)
    return {
        "video": kind,
        "keyframes": len(selection.keyframes),
        "same_keyframes": selection.keyframes.tolist() == expected,
        "dks_seconds": median(ours),
        "matrix_seconds": median(theirs),
        "times_faster": median(theirs) / median(ours),
    }


def measure_peak(way: str, options: argparse.Namespace) -> float:
    """Return the MiB by which one selection raises this process's peak resident size (Linux)."""
    selector = DKS(DKS.Config(keyframes=options.keyframes))
    embeddings, query = make_video("few", options.frames, options.dim, options.keyframes)
    selector.select(embeddings[:512], query)  # so that libraries and threads are not counted
    cosine_matrix(embeddings[:512])
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    selector.select(embeddings, query) if way == "dks" else cosine_matrix(embeddings)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--keyframes", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--peak", choices=["dks", "matrix"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(measure_peak(options.peak, options))
        return

    times = [compare_times(kind, options) for kind in ("scenes", "unlike", "static", "few")]
    peaks = {}
    for way in ("dks", "matrix"):
        command = [sys.executable, __file__, *sys.argv[1:], "--peak", way]
        peaks[way] = float(subprocess.check_output(command))
    result = {**vars(options), "times": times, "extra_mib": peaks}
    del result["json"], result["peak"]
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{options.frames} x {options.dim}, K = {options.keyframes}, {options.threads} threads")
    for row in times:
        agree = "same keyframes" if row["same_keyframes"] else "OTHER KEYFRAMES"
        print(
            f"{row['video']:7} {row['keyframes']:3} taken  dks {row['dks_seconds']:.4f} s  "
            f"matrix {row['matrix_seconds']:.4f} s  {row['times_faster']:.0f} times faster, {agree}"
        )
    print(f"extra memory: dks {peaks['dks']:.1f} MiB, matrix {peaks['matrix']:.1f} MiB")


if __name__ == "__main__":
    main()
