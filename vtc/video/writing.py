"""Write a video file from frames."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def write_video(
    path: str | os.PathLike[str], frames: Iterable[NDArray[np.uint8]], fps: int = 10
) -> None:
    """Encode frames as H.264 with B-frames; equal frames always give equal files.

    Args:
        path: The file to write.
        frames: ``[N, H, W, 3]`` uint8 RGB, or an iterable of ``[H, W, 3]``; H and W must be even.
        fps: Frames per second.
    """
    import av

    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        # x264's macroblock tree varies between calls, and its threads with the number of cores.
        stream.options = {"threads": "1", "x264-params": "mbtree=0"}
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
