"""Write a data set of synthetic videos and questions for ``vtc train``.

``python -m vtc_recipes.synthetic FOLDER --videos 200 --frames 16 --kinds texture,colour``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vtc_recipes.synthetic import KINDS, SPLITS
from vtc_recipes.synthetic.dataset import write_dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a data set from the command line; print an error as one line."""
    parser = argparse.ArgumentParser(
        prog="python -m vtc_recipes.synthetic",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("folder", help="folder for SPLIT.jsonl, and for the videos in SPLIT/")
    add("--videos", type=int, default=200, help="number of videos")
    add("--frames", type=int, default=16, help="length of a video, one frame per second")
    add("--kinds", default="texture", help=f"kinds of questions, in turn: {', '.join(KINDS)}")
    add(
        "--questions",
        type=int,
        default=1,
        help="maximum number of questions per video, in one conversation",
    )
    add("--split", default="train", help=f"split of the scenes: {', '.join(SPLITS)}")
    add("--seed", type=int, default=0, help="seed of the first video")
    add("--size", type=int, default=48, help="height and width of a frame in pixels")
    options = vars(parser.parse_args(arguments))
    try:
        file = write_dataset(
            options.pop("folder"), kinds=options.pop("kinds").split(","), **options
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {options['videos']} videos and {file}")


if __name__ == "__main__":
    main()
