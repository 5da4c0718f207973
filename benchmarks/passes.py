"""Compare keeping frames between the two passes over a file with decoding them twice.

    python benchmarks/passes.py --clips ../shared/clips/real --folder /tmp/vtc-benchmark

Measures the time before the language model. Reads the ten-minute 720p file of
``benchmarks/decode.py`` (created once) at one frame per second, from opening it to the shortened
inputs: index, decoding, a tiny frame encoder, dks, the tower of a tiny LLaVA-OneVision with frames
of 384 x 384, dfm. The two ways alternate; the output shows medians, and the median, minimum and
maximum of the rounds' ratios. Tokens must be bit-equal. With ``--merger drop`` the tower encodes
only the keyframes.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from decode import make_file
from torch import Tensor

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare

WAYS = {"decoded twice": 0, "kept": None}
SIDE, PATCH = 384, 14


def model_of_384(merger: str) -> tuple[Any, Any]:
    """Build and wrap a tiny LLaVA-OneVision whose tower takes frames of 384 x 384."""
    tiny, processor = vtc.testing.tiny("llava_onevision")
    config = copy.deepcopy(tiny.config)
    config.vision_config.image_size = SIDE
    torch.manual_seed(0)
    model = type(tiny)(config).eval()
    processor.video_processor.size = {"height": SIDE, "width": SIDE}
    processor.num_image_tokens = (SIDE // PATCH) ** 2
    encoder = vtc.testing.tiny_encoder()
    return vtc.wrap(model, "dks", merger, processor=processor, encoder=encoder), processor


def read(
    model: Any, processor: Any, path: Path, keep: int | None
) -> tuple[tuple[float, float], Tensor, str]:
    """Read the file once.

    Returns:
        Wall and CPU seconds (of all threads) from opening the file to the shortened inputs; the
        tokens; and a line about the decoding.
    """
    start = time.perf_counter(), time.process_time()
    with torch.no_grad():
        source = vtc.VideoSource(path, keep=keep)
        inputs = vtc.prepare_inputs(model, processor, source, "Who walks by?")
        prepared = prepare(Call(model, model.vtc, inputs, generating=True))
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    [tokens] = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output
    return seconds, tokens, prepared.report.decoding_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder of .mp4 files to loop")
    folder = Path(tempfile.gettempdir()) / "vtc-benchmark"
    parser.add_argument("--folder", type=Path, default=folder, help="folder for the file")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="number of torch threads")
    parser.add_argument("--merger", default="dfm")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    path = make_file(options.clips, options.folder, options.minutes)
    model, processor = model_of_384(options.merger)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    tokens, lines = {}, {}
    for _ in range(options.rounds):
        for name, keep in WAYS.items():
            times, tokens[name], lines[name] = read(model, processor, path, keep)
            seconds[name].append(times)
        if not torch.equal(*tokens.values()):
            raise RuntimeError("the tokens differ")
    pairs = list(zip(*seconds.values(), strict=True))
    ratios = {
        clock: [twice[number] / kept[number] for twice, kept in pairs]
        for number, clock in enumerate(("wall", "CPU"))
    }
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if options.json:
        facts = {"cores": os.cpu_count(), "load": load, "decoded": lines}
        print(json.dumps({**facts, "seconds": seconds, "ratios": ratios}, indent=2))
        return
    print(f"{path.name}, merger {options.merger}, {os.cpu_count()} cores, load {load}")
    for name, times in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:14}{wall:8.1f} s wall {cpu:8.1f} s CPU   {lines[name]}")
    for clock, values in ratios.items():
        middle = statistics.median(values)
        print(f"{clock:4} time: {middle:.2f} times less ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
