"""Makes a small data set of coloured squares: ``python -m vtc_recipes.squares FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vtc.testing.videos import COLOURS, moving_squares, write_video


def write_squares(folder: Path, videos: int = 6) -> Path:
    """Write videos of twenty seconds, two squares each, and questions as LLaVA-JSON.

    Returns:
        The JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first, second = list(COLOURS)[:2]
    samples = []
    for number in range(videos):
        name = f"squares_{number}.mp4"
        frames = moving_squares(seconds=20, fps=2, size=(48, 64), seed=number)
        write_video(folder / name, frames, fps=2)
        samples.append(
            {
                "video": name,
                "conversations": [
                    {"from": "human", "value": "<video>\nWhich square comes first?"},
                    {"from": "gpt", "value": f"The {first} one."},
                    {"from": "human", "value": "And then?"},
                    {"from": "gpt", "value": f"The {second} one."},
                ],
            }
        )
    path = folder / "squares.json"
    path.write_text(json.dumps(samples, indent=1), encoding="utf-8")
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m vtc_recipes.squares FOLDER")
    print(f"wrote {write_squares(Path(sys.argv[1]))}")
