"""Measure how long merging takes, relative to reading the patches once.

    python benchmarks/merging.py                       # dfm, 16 frames of 729 patches, D = 3584
    python benchmarks/merging.py --device cuda --dtype bfloat16 --compile

The patches of one chunk of frames are merged as in a wrapped model. Reading them once means summing
them, in the same dtype and on the same device. Both are timed alternately; the results are medians.
``--compile`` also times the merger under ``torch.compile``.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch

from vtc.plugins import registry


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds until all kernels are finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--merger", default="dfm")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--patches", type=int, default=729)
    parser.add_argument("--width", type=int, default=3584)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    merger = registry.build_part("merger", options.merger)
    merger.build(options.width, options.width)
    merger.to(device, dtype).eval()
    shape = (options.frames, options.patches, options.width)
    patches, reference = (torch.randn(shape, device=device).to(dtype) for _ in "12")
    has_reference = torch.ones(options.frames, dtype=torch.bool, device=device)
    query = torch.randn(options.width, device=device).to(dtype)
    ways: dict[str, Callable[[], Any]] = {
        "reading once": lambda: patches.sum(),
        options.merger: lambda: merger(patches, reference, has_reference, query),
    }
    if options.compile:
        compiled = copy.deepcopy(merger)
        compiled.compile(fullgraph=True)
        ways[f"{options.merger}, compiled"] = lambda: compiled(
            patches, reference, has_reference, query
        )
    for run in ways.values():  # warm-up, and compiling
        run()
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, run in ways.items():
            rounds[name].append(timed(run, device))
    medians = {name: median(values) for name, values in rounds.items()}
    if options.json:
        print(json.dumps({"shape": shape, "dtype": options.dtype, "median": medians}))
        return
    size = f"{patches.nbytes / 1e6:.0f} MB"
    print(f"{list(shape)} {options.dtype} on {device}, {size}, {options.threads} threads")
    for name, seconds in medians.items():
        print(f"{name:24}{1000 * seconds:10.2f} ms{seconds / medians['reading once']:8.1f}x")


if __name__ == "__main__":
    main()
