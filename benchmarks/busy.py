"""Measure how much longer selecting and merging take on a busy machine than on an idle one.

    python benchmarks/busy.py                      # all selectors and mergers, two busy processes
    python benchmarks/busy.py --parts dks dfm

Selectors get 10,000 frames (64 if they take time for each pair), mergers 16 frames of 196 patches.
Two other processes multiply matrices with torch's default threads. In each round a part is timed
while they are stopped and while they run; the results are medians. Run it with OMP_NUM_THREADS
unset: it measures threads that wait for each other, and with OMP_NUM_THREADS=1 there are none.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.plugins import registry

LOAD = "import torch; a = torch.randn(700, 700); print(flush=True)\nwhile True: a @ a"
SETTLE = 0.05
"""Seconds to wait after the other processes stop or start."""


@contextmanager
def busy_processes(count: int) -> Iterator[Callable[[bool], None]]:
    """Start processes that keep the CPU busy; yield a function that resumes or stops them."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in limits}
    command = [sys.executable, "-c", LOAD]
    loads = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(count)
    ]

    def run(go: bool) -> None:
        for load in loads:
            os.kill(load.pid, signal.SIGCONT if go else signal.SIGSTOP)
        sleep(SETTLE)

    try:
        for load in loads:
            assert load.stdout is not None
            load.stdout.readline()
        yield run
    finally:
        for load in loads:
            load.kill()
            load.wait()


def frames_of_scenes(frames: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return embeddings ``[N, d]`` of 200 scenes and a query ``[d]``, float32 unit vectors."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(200, dim, generator=generator), dim=-1)
    scene = torch.arange(frames) * 200 // frames
    noise = torch.randn(frames, dim, generator=generator) * 0.2 / dim**0.5
    query = F.normalize(torch.randn(dim, generator=generator), dim=-1)
    return F.normalize(centres[scene] + noise, dim=-1), query


def selecting(name: str, frames: int) -> Callable[[], Any] | None:
    """Return a function that selects keyframes; None for selectors with their own encoder."""
    selector = registry.build_part("selector", name)
    if selector.encoder is not None:
        return None
    embeddings, query = frames_of_scenes(frames, 512)
    timestamps = torch.arange(frames, dtype=torch.float64)
    return lambda: selector.select(embeddings, query, timestamps)


def merging(name: str, dtype: torch.dtype) -> Callable[[], Any]:
    """Return a function that merges a chunk of frames."""
    merger = registry.build_part("merger", name)
    merger.build(1024, 1024)
    merger.to(dtype).eval()
    patches, reference = (torch.randn(16, 196, 1024).to(dtype) for _ in range(2))
    query, has_reference = torch.randn(1024).to(dtype), torch.ones(16, dtype=torch.bool)
    return lambda: merger(patches, reference, has_reference, query)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", help="names; by default all")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ways: dict[str, Callable[[], Any]] = {}
    for kind in ("selector", "merger"):
        for part in registry.parts(kind):
            if options.parts and part.name not in options.parts:
                continue
            way = (
                selecting(part.name, options.frames)
                if kind == "selector"
                else merging(part.name, getattr(torch, options.dtype))
            )
            if way is not None:
                ways[part.name] = way
    rows = []
    with busy_processes(options.processes) as let_run:
        let_run(False)
        for name, way in ways.items():
            way()
            idle, busy = [], []
            for _ in range(options.rounds):
                for go, times in ((False, idle), (True, busy)):
                    let_run(go)
                    start = perf_counter()
                    way()
                    times.append(perf_counter() - start)
            let_run(False)
            row = {"part": name, "idle": median(idle), "busy": median(busy), "worst": max(busy)}
            rows.append({**row, "ratio": row["busy"] / row["idle"]})
            if not options.json:
                print(
                    f"{name:18} idle {1e3 * row['idle']:8.1f} ms   busy {1e3 * row['busy']:8.1f} ms"
                    f"   {rows[-1]['ratio']:5.1f} times   worst {1e3 * row['worst']:8.1f} ms",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "parts": rows}, indent=2))


if __name__ == "__main__":
    main()
