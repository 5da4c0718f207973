"""Measure rows per second of ``vtc batch select`` against a bare loop over the same short files.

    python benchmarks/batch.py [--rows 10000] [--json]

Each row has its own file (a link to one of twenty, two seconds long), and the selector is
`uniform`, so that the benchmark mostly measures the batch itself: reading rows, opening files,
writing and fsync. A final run has no rows left to do.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

FILES = 20
SELECTOR = {"name": "uniform", "keyframes": 2}


def write_rows(folder: Path, count: int) -> list[Path]:
    """Write the files, a link for each row, and ``rows.jsonl``; return the links."""
    from vtc.testing import moving_squares, write_video

    for number in range(FILES):
        write_video(folder / f"file-{number}.mp4", moving_squares(seconds=2))
    links = [folder / f"{number}.mp4" for number in range(count)]
    with (folder / "rows.jsonl").open("w") as rows:
        for number, link in enumerate(links):
            link.symlink_to(folder / f"file-{number % FILES}.mp4")
            row = {"id": number, "video": link.name, "question": "What happens?"}
            rows.write(json.dumps(row) + "\n")
    return links


class Cost(NamedTuple):
    """Wall seconds, and CPU seconds, which depend less on other work on the machine."""

    clock: float
    cpu: float


def bare_loop(links: list[Path]) -> Cost:
    """Select the keyframes of each file, without writing anything."""
    from vtc.encoders.lazy import LazyEncoder
    from vtc.pipeline.selecting import select_video
    from vtc.video import VideoSource

    encoder = LazyEncoder("open_clip:ViT-B-32/openai")  # uniform does not load it
    start = Cost(time.perf_counter(), time.process_time())
    for link in links:
        select_video(VideoSource(link), "What happens?", SELECTOR, encoder)
    return Cost(time.perf_counter() - start.clock, time.process_time() - start.cpu)


def batch(folder: Path) -> tuple[Cost, dict[str, Any]]:
    """Run the command; return its cost, imports included, and its summary."""
    command = [sys.executable, "-m", "vtc.cli", "batch", "select", str(folder / "rows.jsonl")]
    command += ["--out", str(folder / "out.jsonl"), "--video-root", str(folder), "--json"]
    command += ["--selector", "uniform", "--keyframes", "2"]
    start = Cost(time.perf_counter(), children_cpu())
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    cost = Cost(time.perf_counter() - start.clock, children_cpu() - start.cpu)
    return cost, json.loads(ended.stdout)


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links = write_rows(folder, arguments.rows)
        bare_loop(links[:2])  # imports
        # Half of the loop before the command and half after it, to average over other work.
        middle = len(links) // 2
        before = bare_loop(links[:middle])
        run, summary = batch(folder)
        after = bare_loop(links[middle:])
        again, _ = batch(folder)
    if summary["answered"] != arguments.rows:
        raise RuntimeError(f"expected {arguments.rows} answers, got {summary}")
    loop = Cost(before.clock + after.clock, before.cpu + after.cpu)
    costs = {"bare loop": loop, "vtc batch select": run, "nothing left": again}
    if arguments.json:
        print(json.dumps({name: cost._asdict() for name, cost in costs.items()}))
        return
    print(f"{arguments.rows} rows       seconds  rows/s  CPU seconds")
    for name, cost in costs.items():
        speed = arguments.rows / cost.clock
        print(f"{name:<16}{cost.clock:9.1f}{speed:8.0f}{cost.cpu:13.1f}")


if __name__ == "__main__":
    main()
