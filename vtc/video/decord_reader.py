"""The reader for decord, which refuses files that decord reads incorrectly.

decord 0.6 silently returns wrong frames for some kinds of files; PyAV's index identifies them.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtc.video.errors import VideoError
from vtc.video.index import Index, read_index
from vtc.video.reader import Picture

_BATCH_BYTES = 64 * 2**20
_MAX_BATCH = 32  # decord buffers without bound for larger batches


class DecordReader:
    """Reads only with ``get_batch``, as single reads make decord fill memory in the background.

    decord does not report damaged frames, so all frames count as intact, and a file with an error
    is refused entirely.
    """

    in_memory = False

    def __init__(self, path: Path) -> None:
        _import_decord()
        self._index = read_index(path)
        self.name = path.name
        self.info = self._index.info
        self.times = self._index.times
        self.warnings = self._index.warnings
        self._refuse_wrong_kinds()
        self._decord_index = self._match_timestamps(self._open())

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        decord = _import_decord()
        self._index.file.require_same()
        video = self._open()
        frame_bytes = self.info.width * self.info.height * 3
        size = max(1, min(_MAX_BATCH, _BATCH_BYTES // frame_bytes))
        for start in range(0, len(positions), size):
            batch = positions[start : start + size]
            try:
                frames = video.get_batch(self._decord_index[batch].tolist())
            except decord.DECORDError as error:
                raise self._refusal(f"failed ({_reason(error)})") from error
            self._index.file.require_same()
            # Other code in the process may have set decord's bridge to torch.
            pixels = frames.asnumpy() if hasattr(frames, "asnumpy") else np.asarray(frames)
            for position, frame in zip(batch.tolist(), pixels, strict=True):
                yield Picture(position, frame, True)

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.isin(positions, [picture.position for picture in self.read(positions)])

    def _open(self) -> Any:
        decord = _import_decord()
        try:
            # With its default number of threads, decord cannot decode VP9.
            threads = 1 if self.info.codec == "vp9" else 0
            return decord.VideoReader(str(self._index.file.path.absolute()), num_threads=threads)
        except (decord.DECORDError, RuntimeError) as error:
            raise self._refusal(f"cannot open it ({_reason(error)})") from error

    def _refuse_wrong_kinds(self) -> None:
        reason = _wrong_frames_for(self._index)
        if reason:
            raise self._refusal(f"returns wrong frames for {reason}")

    def _match_timestamps(self, video: Any) -> NDArray[np.int64]:
        """Return decord's index ``[N]`` of each frame, by its timestamp.

        Raises:
            VideoError: decord's timestamps differ from the file's.
        """
        starts = np.asarray(video.get_frame_timestamp(range(len(video))))[:, 0]
        starts = starts.astype(np.float64) - starts[0]  # float32 seconds
        index = np.searchsorted(starts, self.times - self._half_frame(), side="left")
        index = np.minimum(index, len(starts) - 1)
        if np.abs(starts[index] - self.times).max() > self._half_frame():
            raise self._refusal("gives other timestamps than the file")
        return index.astype(np.int64)

    def _half_frame(self) -> float:
        steps = np.diff(self.times)
        return float(steps.min() if len(steps) else self.info.duration) / 2

    def _refusal(self, reason: str) -> VideoError:
        return VideoError(f'{self.name}: decord {reason}; use reader="pyav"')


def _wrong_frames_for(index: Index) -> str | None:
    info = index.info
    if info.container == "mpegts":
        return "MPEG-TS"
    if info.container == "avi" or info.codec == "mpeg4":
        return "AVI and MPEG-4 Part 2"
    if info.trimmed:
        return "trimmed files (edit list)"
    if info.open_gop:
        return "open-GOP files"
    if not info.square_pixels:
        return "files whose pixels are not square"
    if index.is_mirrored:
        return "mirrored pictures"
    return None


def _import_decord() -> Any:
    try:
        import decord
    except ImportError as error:
        raise ImportError(
            'reader="decord" needs the package decord, which has wheels for Linux x86-64 and '
            'Windows only: `pip install decord==0.6.0`, or use reader="pyav"'
        ) from error
    return decord


def _reason(error: Exception) -> str:
    # decord's messages start with a time and a source line and end with a C++ stack trace.
    lines = re.sub(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ", "", str(error)).strip().splitlines()
    return lines[0] if lines else "no reason given"
