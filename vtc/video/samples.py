"""The sampled frames of a video, with substitutes for those that cannot be decoded."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vtc.video.errors import VideoError
from vtc.video.reader import Picture, Reader


class Samples:
    """Reads a picture for every sample.

    A lost sample is replaced by the last good one before it (at the start by the first good one).
    The substitute is the same in every pass: at the first loss all samples are tried once, and
    later passes read substitutes directly. Only the decoder's guesses in damaged parts may differ
    between passes.

    Args:
        reader: The reader, which skips frames that it cannot decode.
        positions: ``[N]`` int64, the sampled frames, strictly ascending.
    """

    def __init__(self, reader: Reader, positions: NDArray[np.int64]) -> None:
        self._reader = reader
        self.positions = positions
        self.timestamps: NDArray[np.float64] = reader.times[positions]
        self._good = np.ones(len(positions), dtype=bool)
        self._substitute: NDArray[np.int64] = np.arange(len(positions), dtype=np.int64)
        self._damaged: set[int] = set()

    @property
    def warnings(self) -> list[str]:
        """One sentence each about the lost and the damaged samples so far."""
        warnings = []
        of_all = f"of {len(self._good)} sampled frames"
        lost = int(np.sum(~self._good))
        if lost:
            warnings.append(
                f"{self._reader.name}: {lost} {of_all} could not be decoded; "
                f"the last good frame before each replaces it"
            )
        if self._damaged:
            warnings.append(
                f"{self._reader.name}: {len(self._damaged)} {of_all} came out damaged; "
                f"the decoder guessed parts of them"
            )
        return warnings

    def read(self, samples: NDArray[np.int64]) -> Generator[Picture, None, None]:
        """Yield one picture for each of ``samples``, ``[n]`` int64, strictly ascending.

        Raises:
            VideoError: No sample of the video can be decoded.
        """
        last: Picture | None = None
        while len(samples):
            count, last = yield from self._read_until_loss(samples, last)
            samples = samples[count:]
            if len(samples):
                self._note_loss(self._substitute[samples[0]])

    def _read_until_loss(
        self, samples: NDArray[np.int64], last: Picture | None
    ) -> Generator[Picture, None, tuple[int, Picture | None]]:
        """Yield pictures until one is missing.

        ``last`` is reused instead of decoded again, as after a loss it is usually the substitute.

        Returns:
            The number of pictures, and the last picture that was read.
        """
        sources = self._substitute[samples]
        targets = self.positions[sources]
        unread = np.unique(targets if last is None else targets[targets > last.position])
        count = 0
        with closing(self._reader.read(unread)) as pictures:
            for picture in chain([] if last is None else [last], pictures):
                if targets[count] < picture.position:
                    break
                last = picture
                while count < len(samples) and targets[count] == picture.position:
                    yield self._judged(picture, int(samples[count]), int(sources[count]))
                    count += 1
                if count == len(samples):
                    break
        return count, last

    def _judged(self, picture: Picture, sample: int, source: int) -> Picture:
        if not picture.intact:
            self._damaged.add(source)
        return picture._replace(intact=picture.intact and sample == source)

    def _note_loss(self, lost: int) -> None:
        self._good &= self._reader.decodable(self.positions)
        self._good[lost] = False
        if not self._good.any():
            raise VideoError(f"{self._reader.name}: none of its sampled frames can be decoded")
        last_good = np.maximum.accumulate(np.where(self._good, np.arange(len(self._good)), -1))
        self._substitute = np.where(last_good < 0, np.argmax(self._good), last_good)
