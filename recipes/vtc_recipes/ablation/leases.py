"""Claims on jobs, through files: at most one worker holds a job, and a dead one loses it.

The first claim of a job is the file ``NAME.1``, made with ``O_EXCL``, which one process alone can
do, on a shared folder as well. While the job runs a thread touches the file. One that was not
touched for ``seconds`` is a dead worker's: whoever makes ``NAME.2`` takes over, again with
``O_EXCL``. Numbers only grow, so a claim that was judged dead is never mixed up with a new one.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType


class LeaseLost(RuntimeError):
    """Another worker has taken a job over, because this one was not heard of for too long."""


class Lease:
    """A claim that this process holds; made by `claim`. As a context, it is given up in the end.

    Attributes:
        name: Of the job.
        number: Of the claim: how many workers have held it so far.
    """

    def __init__(self, folder: Path, name: str, number: int, seconds: float) -> None:
        self.name, self.number = name, number
        self._file = folder / f"{name}.{number}"
        self._next = folder / f"{name}.{number + 1}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(seconds / 4,), daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another worker has taken over."""
        return self._next.exists()

    def check(self) -> None:
        """Go on only while the claim holds.

        Raises:
            LeaseLost: It does not.
        """
        if self.lost:
            raise LeaseLost(
                f"job {self.name} was taken over: this worker was not heard of for longer than "
                "lease_seconds"
            )

    def stop(self, free: bool) -> None:
        """Touch the file no more.

        Args:
            free: Let others claim the job at once.
        """
        self._over.set()
        self._thread.join()
        if free:
            with suppress(FileNotFoundError):
                os.utime(self._file, (0, 0))

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What is done needs no claim; freed, a worker that does not see yet that it is done,
        # as on a shared folder that lags, would do it again.
        self.stop(free=kind is not None)

    def _beat(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            with suppress(OSError):  # a shared folder may be away for a moment; the age will tell
                os.utime(self._file)


def claim(folder: Path, name: str, seconds: float) -> Lease | None:
    """Claim a job, unless another worker holds it.

    Args:
        folder: Of the claims; it must exist.
        name: Of the job.
        seconds: A claim that was not touched for so long is a dead worker's.
    """
    number = last_claim(folder, name)
    if number and not _dead(folder / f"{name}.{number}", seconds):
        return None
    number += 1
    try:
        file = os.open(folder / f"{name}.{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:  # another was quicker
        return None
    with os.fdopen(file, "w", encoding="utf-8") as lines:
        lines.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}) + "\n")
    return Lease(folder, name, number, seconds)


def last_claim(folder: Path, name: str) -> int:
    """The number of the latest claim of a job; 0 for none."""
    number = 0
    while (folder / f"{name}.{number + 1}").exists():
        number += 1
    return number


def _dead(file: Path, seconds: float) -> bool:
    try:
        touched = file.stat().st_mtime
    except FileNotFoundError:
        return False
    return _now(file.parent) - touched > seconds


def _now(folder: Path) -> float:
    """The time by the clock that stamps the files of a folder, which may be another machine's."""
    probe = folder / f"clock-{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
