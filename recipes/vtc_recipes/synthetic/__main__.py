"""Write a data set of synthetic videos and questions that ``vtc train`` reads.

``python -m vtc_recipes.synthetic FOLDER --videos 200 --frames 16 --kinds texture,colour``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vtc_recipes.synthetic import KINDS, SPLITS
from vtc_recipes.synthetic.dataset import write_dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a data set from the command line; errors are one line."""
    parser = argparse.ArgumentParser(
        prog="python -m vtc_recipes.synthetic",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("folder", help="gets SPLIT.jsonl, and the videos in SPLIT/")
    add("--videos", type=int, default=200)
    add("--frames", type=int, default=16, help="of a video, one a second")
    add("--kinds", default="texture", help=f"of questions, in turn, of {', '.join(KINDS)}")
    add("--questions", type=int, default=1, help="most about a video, as turns of one conversation")
    add("--split", default="train", help=f"of the scenes: {', '.join(SPLITS)}")
    add("--seed", type=int, default=0, help="of the first video")
    add("--size", type=int, default=48, help="height and width of a frame in pixels")
    given = vars(parser.parse_args(arguments))
    try:
        file = write_dataset(given.pop("folder"), kinds=given.pop("kinds").split(","), **given)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {given['videos']} videos and {file}")


if __name__ == "__main__":
    main()
