"""Measure the time before the language model for five questions about a video against one question.

    python benchmarks/questions.py [VIDEO] [--rounds 5] [--json]

Uses the shipped tiny model (trained on synthetic video) with dks + dfm; without VIDEO, 600 small
frames of a file that is written first. Runs are interleaved and use one thread; the output shows
medians and their ratio. A third row has the same five questions asked one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

QUESTIONS = [
    "What colour is the square?",
    "What colour is the circle?",
    "What colour is the star?",
    "What colour is the ring?",
    "What colour is the moon?",
]


def seconds_before_the_language_model(
    model: Any, processor: Any, video: Path, questions: Any
) -> float:
    """Return the seconds to compress a video for questions, from opening the file to the inputs."""
    import torch

    import vtc
    from vtc.pipeline.call import Call
    from vtc.pipeline.prepare import prepare

    start = time.perf_counter()
    with torch.no_grad():
        inputs = vtc.prepare_inputs(model, processor, [video] * len(questions), questions)
        prepare(Call(model, model.vtc, inputs, generating=True))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    import torch

    import vtc
    from vtc.testing import moving_squares, write_video

    torch.set_num_threads(1)
    model, processor = vtc.open_model("shipped")
    model.vtc.heat_frames = 0
    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video or Path(folder, "squares.mp4")
        if arguments.video is None:
            write_video(video, moving_squares(seconds=600, size=(192, 192)))
        groups = {
            "one": [QUESTIONS[:1]],
            "five": [QUESTIONS],
            "one by one": [[q] for q in QUESTIONS],
        }
        times: dict[str, list[float]] = {name: [] for name in groups}
        for _ in range(arguments.rounds + 1):  # the first round warms up
            for name, calls in groups.items():
                times[name].append(
                    sum(
                        seconds_before_the_language_model(model, processor, video, questions)
                        for questions in calls
                    )
                )
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    if arguments.json:
        print(json.dumps(medians, indent=2))
        return
    for name, seconds in medians.items():
        print(f"{name:10}  {seconds:6.2f} s  {seconds / medians['one']:5.2f} times one question")


if __name__ == "__main__":
    main()
