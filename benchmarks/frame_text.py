"""Measure the cost of the text around slices: tokens with and without it, by family.

    python benchmarks/frame_text.py

Uses tiny models with random weights and a byte-level tokenizer, which gives an upper bound: a real
tokenizer needs about half as many tokens for a timestamp. 64 slices, 8 of them keyframes.
"""

from __future__ import annotations

import argparse

import numpy as np

import vtc

SLICES, KEYFRAMES = 64, 8


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    encoder = vtc.testing.tiny_encoder()
    print("| family | merged and kept visual tokens | all | keyframes | none |")
    print("|---|---|---|---|---|")
    for part in vtc.parts("adapter"):
        if "frame_text" not in part.options:
            continue
        model, processor = vtc.testing.tiny(part.name)
        selector = vtc.selector("uniform", keyframes=KEYFRAMES)
        vtc.wrap(model, selector, "mean_pool", processor=processor, encoder=encoder)
        frames = SLICES * model.vtc.adapter.frames_per_slice
        video = np.zeros((frames, 56, 56, 3), np.uint8) + np.uint8(9)
        costs = []
        for frame_text in ("all", "keyframes", "none"):
            model.vtc.configure(frame_text=frame_text)
            vtc.ask(model, processor, video, "What?", max_new_tokens=1)
            report = vtc.last_report(model)
            costs.append(str(report.text_after))
        print(f"| `{part.name}` | {report.tokens_after} | {' | '.join(costs)} |")


if __name__ == "__main__":
    main()
