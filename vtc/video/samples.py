"""The sampled frames of a video, with stand-ins for those that cannot be decoded."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vtc.video.errors import VideoError
from vtc.video.reader import Picture, Reader


class Samples:
    """Gives a picture for every sample, whatever subset it is asked for in.

    The last good sample before a lost one stands in for it (the first good one, at the start).
    Which sample that is must not depend on the pass that found the loss: at the first loss all
    samples are tried once, and from then on a pass asks for stand-ins by their own place. Only
    what the decoder guesses of a damaged stretch may differ between passes.

    Args:
        reader: Leaves out what it cannot decode.
        positions: ``[N]`` int64, the sampled frames, strictly ascending.
    """

    def __init__(self, reader: Reader, positions: NDArray[np.int64]) -> None:
        self._reader = reader
        self._positions = positions
        self._good = np.ones(len(positions), dtype=bool)
        self._stand_in: NDArray[np.int64] = np.arange(len(positions), dtype=np.int64)
        self._damaged: set[int] = set()

    @property
    def warnings(self) -> list[str]:
        """What was found lost or damaged so far."""
        found = []
        of_all = f"of {len(self._good)} sampled frames"
        lost = int(np.sum(~self._good))
        if lost:
            found.append(
                f"{self._reader.name}: {lost} {of_all} could not be decoded; "
                f"the last good frame before each stands in"
            )
        if self._damaged:
            found.append(
                f"{self._reader.name}: {len(self._damaged)} {of_all} came out damaged; "
                f"the decoder guessed parts of them"
            )
        return found

    def read(self, samples: NDArray[np.int64]) -> Generator[Picture, None, None]:
        """Yield one picture for each of ``samples``, ``[n]`` int64, strictly ascending.

        Raises:
            VideoError: No sample of the video can be decoded.
        """
        last: Picture | None = None
        while len(samples):
            given, last = yield from self._read_until_loss(samples, last)
            samples = samples[given:]
            if len(samples):
                self._note_loss(self._stand_in[samples[0]])

    def _read_until_loss(
        self, samples: NDArray[np.int64], last: Picture | None
    ) -> Generator[Picture, None, tuple[int, Picture | None]]:
        """Yield pictures until one is missing.

        ``last`` is used again rather than decoded again: after a loss it usually stands in.

        Returns:
            How many were given, and the last picture that was read.
        """
        sources = self._stand_in[samples]
        wanted = self._positions[sources]
        unread = np.unique(wanted if last is None else wanted[wanted > last.position])
        given = 0
        with closing(self._reader.read(unread)) as pictures:
            for picture in chain([] if last is None else [last], pictures):
                if wanted[given] < picture.position:
                    break
                last = picture
                while given < len(samples) and wanted[given] == picture.position:
                    yield self._judged(picture, int(samples[given]), int(sources[given]))
                    given += 1
                if given == len(samples):
                    break
        return given, last

    def _judged(self, picture: Picture, sample: int, source: int) -> Picture:
        if not picture.intact:
            self._damaged.add(source)
        return picture._replace(intact=picture.intact and sample == source)

    def _note_loss(self, lost: int) -> None:
        self._good &= self._reader.decodable(self._positions)
        self._good[lost] = False
        if not self._good.any():
            raise VideoError(f"{self._reader.name}: none of its sampled frames can be decoded")
        last_good = np.maximum.accumulate(np.where(self._good, np.arange(len(self._good)), -1))
        self._stand_in = np.where(last_good < 0, np.argmax(self._good), last_good)
